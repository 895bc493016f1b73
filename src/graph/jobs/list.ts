import type { JobContext } from '../../base/pool.ts';
import type { Change } from '../../base/values.ts';
import { walkPlain } from '../../diff/plain.ts';
import { renamedDirectories } from '../../diff/renames.ts';
import type { Rendering } from '../../diff/types.ts';
import { BREATH, walkChangesInPieces } from '../../diff/walk.ts';
import { type Places, type Views, walkOptions } from './views.ts';

export interface Wanted {
  readonly rendering: Rendering;
  /** Moved directories as one rename each, where the upper tells of them. */
  readonly renames: boolean;
}

/**
 * The changes, in the cheapest way that finds them all; in arrays of the asker's own, undefined now and then. Ends with false, and
 * nothing, where whole trees are to be compared and `onlyGuided` was asked for.
 */
export function* listChanges(
  views: Views,
  places: Places,
  context: JobContext,
  { rendering, renames }: Wanted,
  onlyGuided = false,
): Generator<Change[] | undefined, boolean, undefined> {
  const { view, base, upper, indexed } = places;
  const check = (): void => context.check();
  if (upper?.noIndex === true && base !== undefined && views.whole === undefined && indexed === undefined) {
    if (yield* walkPlain(view, base, rendering, upper, { check, upper: upper.upper })) return true;
  }
  const options = walkOptions(views, places, context, { renames });
  if (onlyGuided && options.guide === undefined) return false;
  const moved = renames && upper !== undefined && base !== undefined;
  const renamed = moved ? { renames: renamedDirectories(upper.upper, base, upper.style) } : {};
  let found: Change[] = [];
  for (const change of walkChangesInPieces(view, base, rendering, { ...options, ...renamed })) {
    if (change !== undefined) {
      const { kind, path, from } = change;
      found.push(from === undefined ? { kind, path } : ({ kind, path, from } as Change));
      if (found.length < BREATH) continue;
    }
    yield found;
    found = [];
  }
  yield found;
  return true;
}
