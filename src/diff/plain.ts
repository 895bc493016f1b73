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
 * all of that, in arrays of the asker's own. Ends with false, having answered nothing else, where a directory was moved.
 * Errors: as `checkUpper`.
 */
export function* walkPlain(
  view: ByteString,
  base: ByteString,
  rendering: Rendering,
  reading: UpperReading,
  options: Omit<WalkOptions, 'guide' | 'renames'> = {},
): Generator<Change[] | undefined, boolean, undefined> {
  const { upper, style, foreign = false } = reading;
  let held = true;
  const entering = (fd: number, path: ByteString, listing: Listing): void => {
    if (!held) return;
    if (foreign) refuseFuseMarks(fd, path, listing);
    if (listing.marks.redirect) throw MOVED;
  };
  const { check = () => {} } = options;
  const found: Change[] = [];
  const walk = (): Iterable<undefined> =>
    rendering === 'docker'
      ? walkBriefly(view, base, { upper, style, entering, check, found })
      : gather(walkChangesInPieces(view, base, rendering, { ...options, guide: style, entering }), found);
  try {
    for (const _ of walk()) {
      if (held && found.length >= HELD_MAX) {
        if (checkUpper(base, reading, options.check).redirects) return false;
        held = false;
      }
      yield held || found.length === 0 ? undefined : found.splice(0);
    }
  } catch (error) {
    if (error === MOVED) return false;
    throw error;
  }
  yield found;
  return true;
}

/** What else is known of a change is more than the rest. */
function* gather(changes: Iterable<Change | undefined>, to: Change[]): Generator<undefined, void, undefined> {
  for (const change of changes) {
    if (change === undefined) yield;
    else to.push({ kind: change.kind, path: change.path });
  }
}
