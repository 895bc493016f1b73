import { nowMs, turn } from '../../base/clock.ts';
import type { Change } from '../../base/values.ts';
import type { ChangesRequest } from './compare.ts';
import { Jail } from './jail.ts';
import { listChanges } from './list.ts';
import { enterViews } from './views.ts';

/** So many changes are given out at once; others are heard after so long of it, and while changes are looked for. */
const BATCH = 256;
/** After so many names or changes the clock is looked at. */
const BREATH = 16;
const TURN_MS = 10;
const AWAY_MS = 100;
/** Where it is longer, because all directories are looked through first, and nothing was given out, a thread is to do it. */
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
): AsyncGenerator<readonly Change[], boolean, undefined> {
  const { views } = request;
  using entered = enterViews(views, new Jail({ lent: true }));
  let since = nowMs();
  let given = false;
  let calls = 0;
  const check = (): void => {
    signal?.throwIfAborted();
    if (++calls % BREATH === 0 && !given && nowMs() - since > DEAF_MS) throw TOO_LONG;
  };
  const list = listChanges(views, entered.places, { check, done: () => {} }, request, true);
  /** What it gives in one turn, and how it ended, if it did. */
  const some = (): { readonly found: readonly Change[]; readonly end?: boolean } => {
    let found: Change[] = [];
    since = nowMs();
    try {
      for (;;) {
        const { done, value } = list.next();
        if (done) return { found, end: value };
        if (value !== undefined && value.length > 0) {
          if (found.length === 0) found = value;
          else for (const change of value) found.push(change);
          given = true;
        }
        if (nowMs() - since > AWAY_MS) return { found };
      }
    } catch (error) {
      if (error !== TOO_LONG) throw error;
      return { found, end: false };
    }
  };
  try {
    for (;;) {
      const { found, end } = some();
      if (end === undefined) entered.leave();
      else entered.forget();
      since = nowMs();
      for (let at = 0; at < found.length; at += BATCH) {
        yield found.slice(at, at + BATCH);
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
