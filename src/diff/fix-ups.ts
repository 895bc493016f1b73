import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { copyMetadata } from '../fs/copy.ts';
import { Descent } from '../fs/descent.ts';
import type { Found, LowerView } from '../fs/lower-view.ts';
import { removeTree } from '../fs/remove.ts';
import { isDirectory } from '../fs/stat.ts';
import { type Marks, OPAQUE_MARKER } from '../fs/whiteouts.ts';
import { keepXattr, viaWorkingDirectory } from '../fs/xattrs.ts';
import {
  close,
  DT_CHR,
  DT_SOCK,
  DT_UNKNOWN,
  fchmod,
  fchown,
  linkat,
  lstatat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  readDirectory,
  unlinkat,
} from '../linux/inode.ts';
import { EEXIST, ELOOP, ENOENT, ENOTDIR, ENXIO, located } from '../linux/libc.ts';
import { type Directories, type DirectoryRow, Mark, ROOT_ROW } from './directories.ts';
import { touch } from './finish.ts';
import type { LayerTree, Place } from './layer-tree.ts';
import { baseName, joinPath, parentPath } from './names.ts';
import type { Notes } from './notes.ts';
import type { Placeholder } from './unsettled.ts';

// What needs the layers below, worked off when a layer's own entries are all in place (driver-behaviour D9b): files that
// links point to are copied up, implied directories take the looks of the ones below, whiteouts of nothing go, opaque
// marks are set, and last of all each directory gets its times. Directories are visited from their parents, not by
// their paths, so that a deep tree costs no more than a wide one.

const ROOT = '' as ByteString;
const HERE = '.' as ByteString;
const IMPLIED_MODE = 0o755;

/** A layer whose own entries are in place. */
export interface Settling {
  /** With the directories that are not settled yet. */
  readonly tree: LayerTree;
  readonly placeholders: readonly Placeholder[];
  /** Host ids of the container's root. */
  readonly rootPair: { readonly uid: number; readonly gid: number };
  readonly notes: Notes;
  /** Called between steps; what it throws ends it. */
  readonly check: () => void;
}

/** Settles a layer. `below` shows the union of its lowers, which are settled; undefined for a first layer. */
export function settle(layer: Settling, below: LowerView | undefined): void {
  for (const placeholder of layer.placeholders) {
    layer.check();
    try {
      fill(layer, placeholder, below);
    } catch (error) {
      throw located(error, placeholder.wantedBy);
    }
  }
  const { root } = layer.tree;
  const looks = below?.lookup(ROOT);
  using at = new Descent(openat(root.fd, HERE, O_RDONLY | O_DIRECTORY));
  try {
    settleFrom(layer, at, looks, below);
  } catch (error) {
    throw located(error, at.pathOf(error));
  }
}

function settleFrom(layer: Settling, at: Descent, looks: Found | undefined, below: LowerView | undefined): void {
  const { directories } = layer.tree;
  const stack = [new Level(directories, ROOT_ROW, ROOT, looks === undefined ? undefined : below)];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    layer.check();
    const child = level.next();
    if (child === undefined) {
      const { row } = level;
      stack.pop();
      if (stack.length === 0) break;
      const goes = level.passes !== 'stays' && isEmpty(at.fd);
      if (!goes && !directories.has(row, Mark.settled)) touch(at.fd, directories, row, layer.notes);
      at.leave();
      if (goes) {
        removeTree(at.fd, directories.name(row));
        if (level.passes === 'deleted') layer.tree.marks.whiteOut(at.fd, directories.name(row));
      }
      continue;
    }
    const name = directories.name(child);
    at.enter(name);
    const path = level.below === undefined ? name : joinPath(level.path, name);
    const lower = level.below?.lookup(path);
    settleDirectory(layer, at.fd, child, path, lower, below);
    const merges = lower !== undefined && isDirectory(lower.stat) && !directories.has(child, HIDES_BELOW);
    const passes = whatPasses(directories, child, lower);
    stack.push(new Level(directories, child, path, merges ? below : undefined, passes));
  }
  // The root comes last: an opaque mark there becomes whiteouts in it.
  settleDirectory(layer, at.fd, ROOT_ROW, ROOT, looks, below);
  if (!directories.has(ROOT_ROW, Mark.settled)) touch(at.fd, directories, ROOT_ROW, layer.notes);
}

/** What becomes of a directory that has no entry in the end: one that only a mark led to by way of a symlink. */
type Passing = 'stays' | 'goes' | 'deleted';

function whatPasses(directories: Directories, row: DirectoryRow, lower: Found | undefined): Passing {
  if (!directories.has(row, Mark.passing) || !directories.has(row, Mark.implied)) return 'stays';
  if (lower === undefined) return 'goes';
  if (directories.has(row, Mark.opaque)) return 'stays';
  return directories.has(row, Mark.reborn) ? 'deleted' : 'goes';
}

function isEmpty(fd: number): boolean {
  const listing = openat(fd, HERE, O_RDONLY | O_DIRECTORY);
  try {
    return readDirectory(listing, HERE).every(({ name }) => name === OPAQUE_MARKER);
  } finally {
    close(listing);
  }
}

/** One directory on the way, and which of its children come next. */
class Level {
  /** Only followed where `below` is given. */
  readonly path: ByteString;
  /** What can be seen through this directory; undefined where nothing can. */
  readonly below: LowerView | undefined;
  readonly row: DirectoryRow;
  readonly passes: Passing;
  readonly #directories: Directories;
  #next: DirectoryRow | undefined;

  constructor(
    directories: Directories,
    row: DirectoryRow,
    path: ByteString,
    below: LowerView | undefined,
    passes: Passing = 'stays',
  ) {
    this.row = row;
    this.passes = passes;
    this.path = path;
    this.below = directories.has(row, HIDES_BELOW) ? undefined : below;
    this.#directories = directories;
    this.#next = directories.firstChild(row);
  }

  next(): DirectoryRow | undefined {
    const next = this.#next;
    if (next !== undefined) this.#next = this.#directories.nextSibling(next);
    return next;
  }
}

/** Nothing of the directory below is in it. */
const HIDES_BELOW = Mark.opaque | Mark.reborn;

/** `lower`: what lies at its path below, as far as it can be seen. */
function settleDirectory(
  layer: Settling,
  fd: number,
  row: DirectoryRow,
  path: ByteString,
  lower: Found | undefined,
  below: LowerView | undefined,
): void {
  const { directories } = layer.tree;
  if (directories.has(row, Mark.settled)) return;
  // What was found is only valid until the view is asked again.
  if (directories.has(row, Mark.implied)) imply(layer, fd, row, lower, below);
  const covers = lower !== undefined;
  const hides = directories.has(row, HIDES_BELOW);
  const merges = lower !== undefined && isDirectory(lower.stat) && !hides;
  if (directories.has(row, Mark.whiteouts)) dropIdleWhiteouts(fd, path, layer.tree.marks, merges ? below : undefined);
  if (path === ROOT && directories.has(row, Mark.opaque)) whiteOutRoot(fd, layer.tree.marks, below);
  else if (hides && covers) layer.tree.marks.makeOpaque(fd);
}

/** A directory that the archive implies looks as the one below does. */
function imply(
  layer: Settling,
  fd: number,
  row: DirectoryRow,
  lower: Found | undefined,
  below: LowerView | undefined,
): void {
  const { directories } = layer.tree;
  if (below === undefined || lower === undefined || !isDirectory(lower.stat) || directories.has(row, Mark.reborn)) {
    // Nothing says what it looks like: the same every time, so that one layer is one tree.
    const { uid, gid } = layer.rootPair;
    fchown(fd, uid, gid);
    fchmod(fd, IMPLIED_MODE);
    directories.setMtimeNs(row, 0n);
    return;
  }
  const from = below.open(lower);
  try {
    copyMetadata(from, fd, keepXattr, viaWorkingDirectory);
    directories.setMtimeNs(row, lower.stat.mtimeNs);
  } finally {
    close(from);
  }
}

/** A whiteout with nothing of its name below would be listed where only this layer has the directory. */
function dropIdleWhiteouts(fd: number, path: ByteString, marks: Marks, below: LowerView | undefined): void {
  for (const { name, type } of readDirectory(fd, path)) {
    if (type !== DT_CHR && type !== DT_SOCK && type !== DT_UNKNOWN) continue;
    const stat = lstatat(fd, name, ENOENT);
    if (stat === undefined || !marks.isWhiteout(stat)) continue;
    if (below?.lookup(joinPath(path, name)) === undefined) unlinkat(fd, name);
  }
}

/** The kernel ignores the opaque flag of a layer's root, so every name below is deleted by itself. */
function whiteOutRoot(fd: number, marks: Marks, below: LowerView | undefined): void {
  for (const name of below?.list(ROOT) ?? []) {
    if (marks.whiteOut(fd, name, EEXIST) !== -EEXIST) continue;
    const own = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ENOTDIR, ELOOP, ENXIO);
    if (own < 0) continue; // what is no directory hides the one below by itself
    marks.makeOpaque(own);
    close(own);
  }
}

/** Gives a placeholder the content and looks of the file below that it stands for. */
function fill(layer: Settling, { path, ino, wantedBy, names }: Placeholder, below: LowerView | undefined): void {
  const { tree } = layer;
  const living = [...names].filter((name) => tree.stat(parentPath(name), baseName(name))?.ino === ino);
  const [first, ...rest] = living;
  if (first === undefined) return; // later entries replaced all of it
  const now = tree.stat(parentPath(path), baseName(path));
  const deleted = now !== undefined && tree.marks.isWhiteout(now);
  const lower = deleted || isHidden(tree.directories, path) ? undefined : below?.lookup(path);
  if (below === undefined || lower === undefined || isDirectory(lower.stat)) {
    const what = deleted
      ? 'the same layer deletes'
      : lower === undefined
        ? 'does not exist in this layer or below'
        : 'is a directory';
    throw new StorageError(
      'corrupt',
      `Cannot unpack ${quote(wantedBy)}: it is a hard link to ${quote(path)}, which ${what}`,
      { path: wantedBy },
    );
  }
  // The copy is a new inode, whatever its type; every name that stood for it is linked to it anew.
  replaceAt(layer, first, ({ fd }, last) => below.copyUp(lower, fd, last, layer.check));
  for (const linked of rest) {
    replaceAt(layer, linked, ({ fd }, last) => {
      const source = tree.openKnown(parentPath(first)) as Place;
      try {
        linkat(source.fd, baseName(first), fd, last);
      } finally {
        close(source.fd);
      }
    });
  }
}

/** Whether a directory on the way hides what lies at the path below. */
function isHidden(directories: Directories, path: ByteString): boolean {
  let at: DirectoryRow | undefined = ROOT_ROW;
  for (const name of path.split('/') as ByteString[]) {
    if (at === undefined) return false;
    if (directories.has(at, HIDES_BELOW)) return true;
    at = directories.child(at, name);
  }
  return false;
}

function replaceAt(layer: Settling, path: ByteString, make: (place: Place, name: ByteString) => void): void {
  const place = layer.tree.openKnown(parentPath(path)) as Place; // the name is alive, so its directory is
  try {
    unlinkat(place.fd, baseName(path));
    make(place, baseName(path));
  } finally {
    close(place.fd);
  }
}
