import { setImmediate as turn } from 'node:timers/promises';
import { nowMs } from '../../base/clock.ts';
import type { Change } from '../../base/values.ts';
import type { Listed } from '../../diff/types.ts';
import type { ChangesRequest } from './compare.ts';
import { Jail } from './jail.ts';
import { listChanges } from './list.ts';
import { enterViews } from './views.ts';

/** So long nobody else hears anything in this thread. */
const TURN_MS = 10;

/**
 * As the job `changes`, in the thread that asks, for a program that does this alone: to start a thread takes longer than
 * most lists. Ends with false, and nothing, where whole trees are to be compared: that is nothing to do without a thread.
 * Whoever is given a change, or heard meanwhile, finds this thread where it was: among the mounts of the process.
 */
export async function* changesHere(
  request: Omit<ChangesRequest, 'to'>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Change, boolean, undefined> {
  const { views } = request;
  using entered = enterViews(views, new Jail({ keepsUmask: true }));
  const check = (): void => signal?.throwIfAborted();
  const list = listChanges(views, entered.places, { check, done: () => {} }, request, true);
  try {
    for (;;) {
      const { found, end } = some(list);
      entered.leave();
      let since = nowMs();
      for (const { kind, path, from } of found) {
        yield from === undefined ? { kind, path } : ({ kind, path, from } as Change);
        if (nowMs() - since < TURN_MS) continue;
        await turn();
        check();
        since = nowMs();
      }
      if (end !== undefined) return end;
      await turn();
      entered.enter();
    }
  } finally {
    list.return(false); // what it has open
  }
}

/** What a list gives in one turn, and how it ended, if it did. */
function some(list: ReturnType<typeof listChanges>): { readonly found: Listed[]; readonly end: boolean | undefined } {
  const until = nowMs() + TURN_MS;
  const found: Listed[] = [];
  do {
    const { done, value } = list.next();
    if (done) return { found, end: value };
    if (value !== undefined) found.push(value);
  } while (nowMs() < until);
  return { found, end: undefined };
}
