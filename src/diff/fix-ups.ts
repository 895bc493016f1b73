import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { copyMetadata } from '../fs/copy.ts';
import type { Found, LowerView } from '../fs/lower-view.ts';
import { isDirectory } from '../fs/stat.ts';
import { keepXattr, viaWorkingDirectory } from '../fs/xattrs.ts';
import {
  close,
  DT_CHR,
  DT_UNKNOWN,
  fchmod,
  fchown,
  futimens,
  linkat,
  lstatat,
  mknodat,
  O_RDONLY,
  readDirectory,
  S_IFCHR,
  unlinkat,
} from '../linux/inode.ts';
import { EEXIST, ENOENT } from '../linux/libc.ts';
import { fsetxattr } from '../linux/xattr.ts';
import type { LayerApplier, Placeholder } from './apply.ts';
import { isWhiteoutNode, type LayerDirectory } from './layer-tree.ts';
import { baseName, joinPath, parentPath } from './names.ts';

// What needs the layers below, worked off when a layer's own entries are all in place (driver-behaviour D9b): files that
// links point to are copied up, implied directories take the looks of the ones below, whiteouts of nothing go, opaque
// marks are set, and last of all each directory gets its times.

const OPAQUE = 'trusted.overlay.opaque' as ByteString;
const YES = Buffer.from('y');
const DEFAULT_ACL = 'system.posix_acl_default' as ByteString;
const IMPLIED_MODE = 0o755;

/** Settles the layer that `applier` filled. `below` shows the union of its lowers, undefined for a first layer. */
export function settle(applier: LayerApplier, below: LowerView | undefined): void {
  const visible = new Visibility(applier, below);
  for (const placeholder of applier.placeholders.values()) fill(applier, placeholder, visible);
  const { directories } = applier.tree;
  for (const [path, directory] of directories) if (path !== '') settleDirectory(applier, path, directory, visible);
  // The root comes last: an opaque mark there becomes whiteouts in it.
  settleDirectory(applier, '' as ByteString, directories.get('' as ByteString) as LayerDirectory, visible);
}

/** What of the layers below can be seen through this one. */
class Visibility {
  readonly #applier: LayerApplier;
  readonly below: LowerView | undefined;

  constructor(applier: LayerApplier, below: LowerView | undefined) {
    this.#applier = applier;
    this.below = below;
  }

  /** What the layers below show at the path, unless an opaque or new directory of this layer on the way hides it. */
  lookup(path: ByteString): Found | undefined {
    return this.below === undefined || this.#hides(parentPath(path), path !== '') ? undefined : this.below.lookup(path);
  }

  #hides(path: ByteString, isParent: boolean): boolean {
    for (let at = path; isParent; at = parentPath(at)) {
      const directory = this.#applier.tree.directories.get(at);
      if (directory?.opaque || directory?.reborn) return true;
      if (at === '') return false;
    }
    return false;
  }
}

function settleDirectory(
  applier: LayerApplier,
  path: ByteString,
  directory: LayerDirectory,
  visible: Visibility,
): void {
  const fd = applier.tree.openListed(path, directory, O_RDONLY);
  if (fd === undefined) return; // a later entry took its place
  try {
    if (directory.whiteouts) dropIdleWhiteouts(fd, path, visible);
    if (path === '' && directory.opaque) whiteOutRoot(applier, fd, visible);
    const lower = visible.lookup(path);
    if (directory.implied) imply(fd, directory, lower, visible.below);
    if ((directory.opaque || directory.reborn) && path !== '' && lower !== undefined) fsetxattr(fd, OPAQUE, YES);
    if (directory.defaultAcl !== undefined) fsetxattr(fd, DEFAULT_ACL, directory.defaultAcl);
    futimens(fd, directory.mtimeNs, directory.mtimeNs);
  } finally {
    close(fd);
  }
}

/** A directory that the archive implies looks as the one below does. */
function imply(fd: number, directory: LayerDirectory, lower: Found | undefined, below: LowerView | undefined): void {
  if (below === undefined || lower === undefined || !isDirectory(lower.stat) || directory.reborn) {
    // Nothing says what it looks like: the same every time, so that one layer is one tree.
    fchown(fd, 0, 0);
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
function dropIdleWhiteouts(fd: number, path: ByteString, visible: Visibility): void {
  for (const { name, type } of readDirectory(fd, path)) {
    if (type !== DT_CHR && type !== DT_UNKNOWN) continue;
    const stat = lstatat(fd, name, ENOENT);
    if (stat === undefined || !isWhiteoutNode(stat)) continue;
    if (visible.lookup(joinPath(path, name)) === undefined) unlinkat(fd, name);
  }
}

/** The kernel ignores the opaque flag of a layer's root, so every name below is deleted by itself. */
function whiteOutRoot(applier: LayerApplier, fd: number, visible: Visibility): void {
  for (const name of visible.below?.list('' as ByteString) ?? []) {
    if (mknodat(fd, name, S_IFCHR, 0, 0, EEXIST) !== -EEXIST) continue;
    const stat = lstatat(fd, name);
    if (stat === undefined || !isDirectory(stat)) continue;
    const own = applier.tree.directories.get(name);
    const opened = own === undefined ? undefined : applier.tree.openListed(name, own, O_RDONLY);
    if (opened === undefined) continue;
    fsetxattr(opened, OPAQUE, YES);
    close(opened);
  }
}

/** Gives a placeholder the content and looks of the file below that it stands for. */
function fill(applier: LayerApplier, placeholder: Placeholder, visible: Visibility): void {
  const { path, ino, names } = placeholder;
  const place = applier.tree.directory(parentPath(path));
  const name = baseName(path);
  const inPlace = lstatat(place.fd, name, ENOENT)?.ino === ino;
  const living = names.filter((linked) => inodeAt(applier, linked) === ino);
  if (!inPlace && living.length === 0) return; // later entries replaced all of it
  const lower = visible.lookup(path);
  const { below } = visible;
  if (below === undefined || lower === undefined || isDirectory(lower.stat)) {
    const what = lower === undefined ? 'does not exist in this layer or below' : 'is a directory';
    throw new StorageError(
      'corrupt',
      `Cannot unpack ${quote(names[0] ?? path)}: it is a hard link to ${quote(path)}, which ${what}`,
      { path: names[0] ?? path },
    );
  }
  // The copy is a new inode, whatever its type; every name that stood for it is linked to it anew.
  const [first, ...rest] = inPlace ? [path, ...living] : living;
  if (first === undefined) return;
  replaceAt(applier, first, (fd, last) => below.copyUp(lower, fd, last));
  for (const linked of rest) {
    replaceAt(applier, linked, (fd, last) => {
      const source = applier.tree.openDirectory(parentPath(first));
      try {
        linkat(source, baseName(first), fd, last);
      } finally {
        close(source);
      }
    });
  }
}

function inodeAt(applier: LayerApplier, path: ByteString): number | undefined {
  return lstatat(applier.tree.directory(parentPath(path)).fd, baseName(path), ENOENT)?.ino;
}

function replaceAt(applier: LayerApplier, path: ByteString, make: (fd: number, name: ByteString) => void): void {
  const fd = applier.tree.openDirectory(parentPath(path));
  try {
    unlinkat(fd, baseName(path));
    make(fd, baseName(path));
  } finally {
    close(fd);
  }
}
