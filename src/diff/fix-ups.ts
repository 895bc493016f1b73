import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { copyMetadata } from '../fs/copy.ts';
import { Descent } from '../fs/descent.ts';
import type { Found, LowerView } from '../fs/lower-view.ts';
import { isDirectory, isWhiteout } from '../fs/stat.ts';
import { makeOpaque } from '../fs/whiteouts.ts';
import { keepXattr, viaWorkingDirectory } from '../fs/xattrs.ts';
import {
  AT_REMOVEDIR,
  close,
  DT_CHR,
  DT_UNKNOWN,
  fchmod,
  fchown,
  linkat,
  lstatat,
  mknodat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  readDirectory,
  S_IFCHR,
  unlinkat,
} from '../linux/inode.ts';
import { EEXIST, ELOOP, ENOENT, ENOTDIR, ENOTEMPTY, ENXIO } from '../linux/libc.ts';
import { touch } from './finish.ts';
import type { LayerDirectory, LayerTree, Place } from './layer-tree.ts';
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
}

/** Settles a layer. `below` shows the union of its lowers, which are settled; undefined for a first layer. */
export function settle(layer: Settling, below: LowerView | undefined): void {
  for (const placeholder of layer.placeholders) fill(layer, placeholder, below);
  const { root } = layer.tree;
  const top = root.directory;
  const looks = below?.lookup(ROOT);
  using at = new Descent(openat(root.fd, HERE, O_RDONLY | O_DIRECTORY));
  const stack = [new Level(top, ROOT, looks === undefined ? undefined : below)];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const child = level.next();
    if (child === undefined) {
      const { directory } = level;
      stack.pop();
      if (stack.length === 0) break;
      if (!directory.settled) touch(at.fd, directory, layer.notes);
      at.leave();
      // Where something is in it, or below it, it stays.
      if (level.passes) unlinkat(at.fd, directory.name, AT_REMOVEDIR, ENOTEMPTY, EEXIST);
      continue;
    }
    at.enter(child.name);
    const path = level.below === undefined ? child.name : joinPath(level.path, child.name);
    const lower = level.below?.lookup(path);
    settleDirectory(layer, at.fd, child, path, lower, below);
    const merges = lower !== undefined && isDirectory(lower.stat) && !hidesBelow(child);
    stack.push(new Level(child, path, merges ? below : undefined, child.passing && child.implied && !merges));
  }
  // The root comes last: an opaque mark there becomes whiteouts in it.
  settleDirectory(layer, at.fd, top, ROOT, looks, below);
  if (!top.settled) touch(at.fd, top, layer.notes);
}

/** One directory on the way, and which of its children come next. */
class Level {
  /** Only followed where `below` is given. */
  readonly path: ByteString;
  /** What can be seen through this directory; undefined where nothing can. */
  readonly below: LowerView | undefined;
  readonly directory: LayerDirectory;
  /** It goes again if it turns out empty. */
  readonly passes: boolean;
  readonly #children: Iterator<LayerDirectory> | undefined;

  constructor(directory: LayerDirectory, path: ByteString, below: LowerView | undefined, passes = false) {
    this.directory = directory;
    this.passes = passes;
    this.path = path;
    this.below = hidesBelow(directory) ? undefined : below;
    this.#children = directory.children?.values();
  }

  next(): LayerDirectory | undefined {
    return this.#children?.next().value;
  }
}

/** Nothing of the directory below is in it. */
function hidesBelow(directory: LayerDirectory): boolean {
  return directory.opaque || directory.reborn;
}

/** `lower`: what lies at its path below, as far as it can be seen. */
function settleDirectory(
  layer: Settling,
  fd: number,
  directory: LayerDirectory,
  path: ByteString,
  lower: Found | undefined,
  below: LowerView | undefined,
): void {
  if (directory.settled) return;
  // What was found is only valid until the view is asked again.
  if (directory.implied) imply(layer, fd, directory, lower, below);
  const covers = lower !== undefined;
  const merges = lower !== undefined && isDirectory(lower.stat) && !hidesBelow(directory);
  if (directory.whiteouts) dropIdleWhiteouts(fd, path, merges ? below : undefined);
  if (path === ROOT && directory.opaque) whiteOutRoot(fd, below);
  else if (hidesBelow(directory) && covers) makeOpaque(fd, 'overlay');
}

/** A directory that the archive implies looks as the one below does. */
function imply(
  layer: Settling,
  fd: number,
  directory: LayerDirectory,
  lower: Found | undefined,
  below: LowerView | undefined,
): void {
  if (below === undefined || lower === undefined || !isDirectory(lower.stat) || directory.reborn) {
    // Nothing says what it looks like: the same every time, so that one layer is one tree.
    const { uid, gid } = layer.rootPair;
    fchown(fd, uid, gid);
    fchmod(fd, IMPLIED_MODE);
    directory.mtimeNs = 0n;
    return;
  }
  const from = below.open(lower);
  try {
    copyMetadata(from, fd, keepXattr, viaWorkingDirectory);
    directory.mtimeNs = lower.stat.mtimeNs;
  } finally {
    close(from);
  }
}

/** A whiteout with nothing of its name below would be listed where only this layer has the directory. */
function dropIdleWhiteouts(fd: number, path: ByteString, below: LowerView | undefined): void {
  for (const { name, type } of readDirectory(fd, path)) {
    if (type !== DT_CHR && type !== DT_UNKNOWN) continue;
    const stat = lstatat(fd, name, ENOENT);
    if (stat === undefined || !isWhiteout(stat)) continue;
    if (below?.lookup(joinPath(path, name)) === undefined) unlinkat(fd, name);
  }
}

/** The kernel ignores the opaque flag of a layer's root, so every name below is deleted by itself. */
function whiteOutRoot(fd: number, below: LowerView | undefined): void {
  for (const name of below?.list(ROOT) ?? []) {
    if (mknodat(fd, name, S_IFCHR, 0, 0, EEXIST) !== -EEXIST) continue;
    const own = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ENOTDIR, ELOOP, ENXIO);
    if (own < 0) continue; // what is no directory hides the one below by itself
    makeOpaque(own, 'overlay');
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
  const deleted = now !== undefined && isWhiteout(now);
  const lower = deleted || isHidden(tree.root.directory, path) ? undefined : below?.lookup(path);
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
  replaceAt(layer, first, ({ fd }, last) => below.copyUp(lower, fd, last));
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
function isHidden(top: LayerDirectory, path: ByteString): boolean {
  let at: LayerDirectory | undefined = top;
  for (const name of path.split('/') as ByteString[]) {
    if (at === undefined) return false;
    if (hidesBelow(at)) return true;
    at = at.children?.get(name);
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
