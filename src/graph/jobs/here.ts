import { setImmediate as turn } from 'node:timers/promises';
import { nowMs } from '../../base/clock.ts';
import type { Change } from '../../base/values.ts';
import type { ChangesRequest } from './compare.ts';
import { Jail } from './jail.ts';
import { listChanges } from './list.ts';
import { enterViews } from './views.ts';

/** So long nobody else hears anything in this thread. */
const TURN_MS = 10;
/** Changes gathered before they are given out: afterwards the thread is where it was, whatever the asker does with them. */
const GATHERED_MAX = 20_000;

/**
 * As the job `changes`, in the thread that asks, for a program that does this alone: to start a thread takes longer than
 * most lists. Ends with false, and nothing, where whole trees are to be compared: that is nothing to do without a thread.
 */
export async function* changesHere(
  request: Omit<ChangesRequest, 'to'>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Change, boolean, undefined> {
  const { views } = request;
  const gathered: Change[] = [];
  let since = nowMs();
  const isTurn = (): boolean => nowMs() - since >= TURN_MS;
  const others = async (): Promise<void> => {
    await turn();
    since = nowMs();
    signal?.throwIfAborted();
  };
  {
    using entered = enterViews(views, new Jail({ keepsUmask: true }));
    const context = { check: () => signal?.throwIfAborted(), done: () => {} };
    const list = listChanges(views, entered.places, context, request, true);
    for (let next = list.next(); ; next = list.next()) {
      if (next.done && !next.value) return false;
      if (next.done) break;
      if (next.value !== undefined) {
        const { kind, path, from } = next.value;
        gathered.push(from === undefined ? { kind, path } : ({ kind, path, from } as Change));
      }
      if (gathered.length === GATHERED_MAX) yield* gathered.splice(0);
      if (isTurn()) await others();
    }
  }
  for (const change of gathered) {
    yield change;
    if (isTurn()) await others();
  }
  return true;
}
