import type { ByteString } from '../base/bytes.ts';
import type { Descent } from '../fs/descent.ts';
import { overlayMarks, type WhiteoutStyle } from '../fs/whiteouts.ts';
import { flistxattr } from '../linux/xattr.ts';
import type { Listing } from './types.ts';

/** What the present directory of an upper holds. */
export function listingOf(upper: Descent, style: WhiteoutStyle = 'none'): Listing {
  const attributes = flistxattr(upper.fd);
  return { names: upper.names(), attributes, marks: overlayMarks(upper.fd, style, attributes) };
}

/** The names and those of the directory, sorted by bytes. */
export function union(a: readonly ByteString[], base: Descent | undefined): readonly ByteString[] {
  if (base === undefined) return a;
  const b = base.names();
  if (a.length === b.length && a.every((name, i) => name === b[i])) return a;
  const merged: ByteString[] = [];
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    const x = a[i];
    const y = b[j];
    const takesA = y === undefined || (x !== undefined && x <= y);
    merged.push((takesA ? x : y) as ByteString);
    if (takesA) i++;
    if (!takesA || x === y) j++;
  }
  return merged;
}
