import { setImmediate as turn } from 'node:timers/promises';
import { nowMs } from '../../base/clock.ts';
import type { Change } from '../../base/values.ts';
import type { Listed } from '../../diff/types.ts';
import type { ChangesRequest } from './compare.ts';
import { Jail } from './jail.ts';
import { listChanges } from './list.ts';
import { enterViews } from './views.ts';

/** So long nobody else hears anything in this thread: while changes are given out, and while they are looked for. */
const TURN_MS = 10;
const AWAY_MS = 100;
/** Where it is longer, because nothing is found meanwhile, and nothing was given out, a thread is to do it. */
const DEAF_MS = 250;

/** Ends a list. */
const TOO_LONG = new Error('a list takes a thread');

/**
 * As the job `changes`, in the thread that asks, for a program that does this alone: to start a thread takes longer than
 * most lists. Ends with false, and nothing, where that is nothing to do without a thread: whole trees are to be compared,
 * or much is read before anything is found. Whoever is given a change, or heard meanwhile, finds this thread where it was:
 * among the mounts of the process.
 */
export async function* changesHere(
  request: Omit<ChangesRequest, 'to'>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Change, boolean, undefined> {
  const { views } = request;
  using entered = enterViews(views, new Jail({ keepsUmask: true }));
  let since = nowMs();
  let given = false;
  const check = (): void => {
    signal?.throwIfAborted();
    if (!given && nowMs() - since > DEAF_MS) throw TOO_LONG;
  };
  const list = listChanges(views, entered.places, { check, done: () => {} }, request, true);
  /** What it gives in one turn, and how it ended, if it did. */
  const some = (): { readonly found: readonly Listed[]; readonly end?: boolean } => {
    const found: Listed[] = [];
    since = nowMs();
    try {
      do {
        const { done, value } = list.next();
        if (done) return { found, end: value };
        if (value === undefined) continue;
        found.push(value);
        given = true;
      } while (nowMs() - since < AWAY_MS);
    } catch (error) {
      if (error !== TOO_LONG) throw error;
      return { found, end: false };
    }
    return { found };
  };
  try {
    for (;;) {
      const { found, end } = some();
      entered.leave();
      since = nowMs();
      for (const { kind, path, from } of found) {
        yield from === undefined ? { kind, path } : ({ kind, path, from } as Change);
        if (nowMs() - since < TURN_MS) continue;
        await turn();
        signal?.throwIfAborted();
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
