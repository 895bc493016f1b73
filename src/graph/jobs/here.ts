import { setImmediate as turn } from 'node:timers/promises';
import { nowMs } from '../../base/clock.ts';
import type { Change } from '../../base/values.ts';
import type { ChangesRequest } from './compare.ts';
import { Jail } from './jail.ts';
import { listChanges } from './list.ts';
import { enterViews } from './views.ts';

/** So long nobody else hears anything in this thread. */
const TURN_MS = 10;

/**
 * As the job `changes`, in the thread that asks, for a program that does this alone: to start a thread takes longer than
 * most lists. Ends with false, and nothing, where whole trees are to be compared: that is nothing to do without a thread.
 */
export async function* changesHere(
  request: Omit<ChangesRequest, 'to'>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Change, boolean, undefined> {
  const { views } = request;
  using entered = enterViews(views, new Jail({ keepsUmask: true }));
  const context = { check: () => signal?.throwIfAborted(), done: () => {} };
  const list = listChanges(views, entered.places, context, request, true);
  let since = nowMs();
  for (;;) {
    const { done, value } = list.next();
    if (done) return value;
    if (value !== undefined) {
      const { kind, path, from } = value;
      yield from === undefined ? { kind, path } : ({ kind, path, from } as Change);
    }
    if (nowMs() - since < TURN_MS) continue;
    await turn();
    since = nowMs();
  }
}
