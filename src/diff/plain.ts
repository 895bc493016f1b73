import type { ByteString } from '../base/bytes.ts';
import type { Change } from '../base/values.ts';
import { walkBriefly } from './brief.ts';
import type { Listing, Rendering, WalkOptions } from './types.ts';
import { checkUpper, refuseFuseMarks, type UpperReading } from './upper.ts';
import { walkChangesInPieces } from './walk.ts';

/** Changes held back at most. */
export const HELD_MAX = 20_000;

/** Ends a walk. */
const MOVED = new Error('a directory was moved');

/**
 * As `walkChanges` by a guide, for an upper in which no directory was moved: it is read once, not looked through before.
 * Holds back what it found until no directory is left that it could refuse, and answers undefined now and then; then
 * all of that. Ends with false, having answered nothing else, where a directory was moved. Errors: as `checkUpper`.
 */
export function* walkPlain(
  view: ByteString,
  base: ByteString,
  rendering: Rendering,
  reading: UpperReading,
  options: Omit<WalkOptions, 'guide' | 'renames'> = {},
): Generator<Change | undefined, boolean, undefined> {
  const { style, foreign = false } = reading;
  let held: Change[] | undefined = [];
  const entering = (fd: number, path: ByteString, listing: Listing): void => {
    if (held === undefined) return;
    if (foreign) refuseFuseMarks(fd, path, listing);
    if (listing.marks.redirect) throw MOVED;
  };
  const { check = () => {} } = options;
  const walked: Iterable<Change | undefined> =
    rendering === 'docker'
      ? walkBriefly(view, base, { upper: reading.upper, style, entering, check })
      : walkChangesInPieces(view, base, rendering, { ...options, guide: style, entering });
  try {
    for (const change of walked) {
      if (held === undefined || change === undefined) {
        yield change;
        continue;
      }
      held.push({ kind: change.kind, path: change.path }); // what else is known of it is more than the rest
      if (held.length < HELD_MAX) continue;
      if (checkUpper(base, reading, options.check).redirects) return false;
      yield* held;
      held = undefined;
    }
  } catch (error) {
    if (error === MOVED) return false;
    throw error;
  }
  if (held !== undefined) yield* held;
  return true;
}
