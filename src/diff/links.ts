import type { ByteString } from '../base/bytes.ts';
import { Descent } from '../fs/descent.ts';
import { inodeKey, isDirectory, isWhiteout } from '../fs/stat.ts';
import { overlayMarks, type WhiteoutStyle } from '../fs/whiteouts.ts';
import type { Stat } from '../linux/inode.ts';
import { ELOOP, ENOENT, ENOTDIR, located } from '../linux/libc.ts';
import { ofReading } from './reading.ts';

// Names that are links to each other, of what the upper of a view leads to: whether all of them are there.

/** Of an inode that has several names. */
export interface Linked {
  /** The first that was seen. */
  readonly path: ByteString;
  /** In all. */
  readonly nlink: number;
  seen: number;
}

/** By inode: those of which not all names were seen. */
export type Links = Map<string, Linked>;

/** Which of `of` threads this is, from 0 on, each of which counts a part. */
export interface Share {
  readonly index: number;
  readonly of: number;
}

/** So far below a moved directory each directory is one thread's, with all in it; what is above is the first one's. */
const SHARED_DEPTH = 2;

/** A directory of the view that is counted. */
interface Level {
  readonly path: string;
  readonly names: readonly ByteString[];
  next: number;
  readonly inUpper: boolean;
  /** Below a moved directory: how far. */
  readonly depth: number;
}

/**
 * Counts the names that a walk by the upper comes to, or a share of them; `check` is called for each name, and may throw.
 * Below a directory that shows another one that is all of them.
 */
export function countLinks(
  viewRoot: ByteString,
  { upper: upperRoot, style }: { readonly upper: ByteString; readonly style: Exclude<WhiteoutStyle, 'none'> },
  check: () => void,
  { index, of }: Share = { index: 0, of: 1 },
): Links {
  const missing: Links = new Map();
  using view = Descent.open(viewRoot);
  using upper = Descent.open(upperRoot);
  const statIn = (name: ByteString, path: ByteString): Stat | undefined => {
    try {
      return view.stat(name, ENOENT);
    } catch (error) {
      throw ofReading(located(error, path), path, viewRoot, upperRoot);
    }
  };
  /** Of those that are somebody's, all of which everybody comes to. */
  let shared = 0;
  const stack: Level[] = [{ path: '', names: upper.names(), next: 0, inUpper: true, depth: 0 }];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const name = level.names[level.next++];
    if (name === undefined) {
      stack.pop();
      if (stack.length === 0) break;
      view.leave();
      if (level.inUpper) upper.leave();
      continue;
    }
    const path = `${level.path}/${name}` as ByteString;
    check();
    const stat = statIn(name, path);
    if (stat === undefined || isWhiteout(stat)) continue;
    if (isDirectory(stat)) {
      const depth = level.inUpper ? 0 : level.depth + 1;
      if (depth === SHARED_DEPTH && shared++ % of !== index) continue;
      if (view.enter(name, ENOENT) < 0) continue;
      const enters = level.inUpper && upper.enter(name, ENOENT, ENOTDIR, ELOOP) === 0;
      const inUpper = enters && !overlayMarks(upper.fd, style).redirect;
      if (enters && !inUpper) upper.leave(); // all of it is read, wherever it comes from
      stack.push({ path, names: inUpper ? upper.names() : view.names(), next: 0, inUpper, depth });
    } else if (stat.nlink > 1 && (level.depth >= SHARED_DEPTH || index === 0)) {
      see(missing, inodeKey(stat), { path, nlink: stat.nlink, seen: 1 });
    }
  }
  return missing;
}

/** Counts names of an inode beside those that were seen before. */
export function see(missing: Links, key: string, { path, nlink, seen }: Linked): void {
  const known = missing.get(key);
  if (known === undefined) missing.set(key, { path, nlink, seen });
  else known.seen += seen;
  if ((known?.seen ?? seen) >= nlink) missing.delete(key);
}

/** The first path whose inode has other names elsewhere. */
export function strayLink(missing: Links): ByteString | undefined {
  return missing.values().next().value?.path;
}
