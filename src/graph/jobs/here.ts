import { setImmediate as turn } from 'node:timers/promises';
import { nowMs } from '../../base/clock.ts';
import type { Change } from '../../base/values.ts';
import { walkChanges } from '../../diff/walk.ts';
import { type ChangesRequest, renamesOf } from './compare.ts';
import { Jail } from './jail.ts';
import { enterViews, walkOptions } from './views.ts';

/** So long nobody else hears anything in this thread. */
const TURN_MS = 10;

/**
 * As the job `changes`, in the thread that asks, for a program that does this alone: to start a thread takes longer than
 * most lists. Undefined where whole trees are to be compared, which is nothing to do without one.
 */
export function changesHere(
  request: Omit<ChangesRequest, 'to'>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Change, void, undefined> | undefined {
  const { views } = request;
  const entered = enterViews(views, new Jail({ keepsUmask: true }));
  try {
    const { places } = entered;
    const check = (): void => signal?.throwIfAborted();
    const options = {
      ...walkOptions(views, places, { check, done: () => {} }, request),
      ...renamesOf(request, places),
    };
    if (options.guide === undefined) {
      entered[Symbol.dispose]();
      return undefined;
    }
    return inTurns(walkChanges(places.view, places.base, request.rendering, options), entered);
  } catch (error) {
    entered[Symbol.dispose]();
    throw error;
  }
}

async function* inTurns(changes: Iterable<Change>, entered: Disposable): AsyncGenerator<Change, void, undefined> {
  using _ = entered;
  let since = nowMs();
  for (const { kind, path, from } of changes) {
    yield from === undefined ? { kind, path } : ({ kind, path, from } as Change);
    if (nowMs() - since < TURN_MS) continue;
    await turn();
    since = nowMs();
  }
}
