import { setImmediate } from 'node:timers/promises';
import { type ByteString, quote } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';
import type { Abortable } from '../../base/values.ts';
import { temporaryName } from '../../fs/atomic.ts';
import { copyEntry, copyMetadata } from '../../fs/copy.ts';
import { Descent } from '../../fs/descent.ts';
import type { Parent, Root } from '../../fs/rooted.ts';
import { isDirectory, sameInode, typeOf } from '../../fs/stat.ts';
import {
  AT_REMOVEDIR,
  close,
  fchmod,
  fchmodat,
  fstat,
  lchownat,
  lstatat,
  mkdirat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  renameat,
  type Stat,
  unlinkat,
} from '../../linux/inode.ts';
import { EEXIST, ENOENT } from '../../linux/libc.ts';

// As `docker cp`: a directory goes into one that is there, `dir/.` is its content, a symlink is copied as it is, the
// destination's parent must exist. Hard links become copies. Both sides are reached through a Root.

/** A path inside a tree, as it was written: a `/` or `/.` at its end counts. */
export interface Place {
  readonly root: Root;
  readonly path: ByteString;
}

export interface CopyPolicy extends Abortable {
  /** Who owns what is copied, then without set-id bits and capabilities; undefined: owners and all stay (`--archive`). */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
  /** Told of what is left out: sockets always, devices where owners change. */
  readonly onSkipped: (path: ByteString, type: string) => void;
}

const SYMLINKS_MAX = 40;
/** How long the copy may keep signals waiting. */
const BREATH_MS = 50;

/** Copies what `from` names to `to`. A failure in the middle leaves what was copied until then. */
export async function copyBetween(from: Place, to: Place, policy: CopyPolicy): Promise<void> {
  const source = from.root.stat(from.path);
  if (source === undefined) {
    throw new StorageError('not-found', `Cannot copy ${quote(from.path)}: there is no such file or directory`);
  }
  const path = followed(to);
  const existing = to.root.stat(path);
  const inside = existing !== undefined && isDirectory(existing);
  if (isDirectory(source)) {
    if (existing !== undefined && !inside) throw notOnto(from.path, to.path, 'a directory', 'a file');
    using tree = new Descent(from.root.open(from.path, O_RDONLY | O_DIRECTORY));
    const name = inside ? lastName(from.path) : undefined;
    const target = inside && name === undefined ? openDirectory(to.root, path) : makeDirectory(to.root, path, name);
    await copyTree(tree, target, policy);
    return;
  }
  if (!inside && /\/\.?$/.test(to.path)) {
    throw new StorageError('not-found', `Cannot copy to ${quote(to.path)}: there is no such directory`);
  }
  using origin = new OpenParent(from.root.parent(from.path));
  using target = new OpenParent(
    inside ? { dir: openDirectory(to.root, path).fd, name: lastName(from.path) as ByteString } : to.root.parent(path),
  );
  copyOver(origin.dir, origin.name, source, target.dir, target.name, from.path, policy);
}

class OpenParent implements Disposable {
  readonly dir: number;
  readonly name: ByteString;
  constructor({ dir, name }: Parent) {
    this.dir = dir;
    this.name = name;
  }
  [Symbol.dispose](): void {
    close(this.dir);
  }
}

/** The destination with symlinks at its end followed, inside the root; it need not exist. */
function followed({ root, path }: Place): ByteString {
  let at = path;
  for (let links = 0; links < SYMLINKS_MAX; links++) {
    const target = root.readlink(at.replace(/(?<=[^/])\/+\.?$/, '') as ByteString);
    if (target === undefined) return at;
    const trimmed = at.replace(/\/+\.?$/, '');
    at = (target.startsWith('/') ? target : trimmed.slice(0, trimmed.lastIndexOf('/') + 1) + target) as ByteString;
  }
  throw new StorageError('invalid-argument', `Cannot copy to ${quote(path)}: too many symbolic links`);
}

/** The name under which something goes into a directory; undefined where its content is meant: `/`, `dir/.`, `..`. */
function lastName(path: ByteString): ByteString | undefined {
  const name = path.replace(/\/+$/, '').split('/').at(-1) ?? '';
  return name === '' || name === '.' || name === '..' ? undefined : (name as ByteString);
}

interface Target {
  readonly fd: number;
  /** Made by this copy: empty, and nobody else's until it is finished. */
  readonly fresh: boolean;
}

function openDirectory(root: Root, path: ByteString): Target {
  return { fd: root.open(`${path}/` as ByteString, O_RDONLY | O_DIRECTORY), fresh: false };
}

/** The directory `name` in `path`, or `path` itself, made unless it is there. */
function makeDirectory(root: Root, path: ByteString, name: ByteString | undefined): Target {
  using parent = new OpenParent(
    name === undefined
      ? root.parent(path.replace(/\/\.?$/, '') as ByteString)
      : { dir: openDirectory(root, path).fd, name },
  );
  const fresh = mkdirat(parent.dir, parent.name, 0o700, EEXIST) === 0;
  return { fd: openat(parent.dir, parent.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), fresh };
}

/** Takes the target's descriptor over. */
async function copyTree(from: Descent, target: Target, policy: CopyPolicy): Promise<void> {
  using to = new Descent(target.fd);
  const top = fstat(target.fd);
  const stack = [{ names: from.names(), next: 0, fresh: target.fresh }];
  let breathed = performance.now();
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    if (performance.now() - breathed > BREATH_MS) {
      await setImmediate();
      policy.signal?.throwIfAborted();
      breathed = performance.now();
    }
    const name = level.names[level.next++];
    if (name === undefined) {
      if (level.fresh) finishDirectory(from.fd, to.fd, policy);
      stack.pop();
      if (stack.length > 0) {
        from.leave();
        to.leave();
      }
      continue;
    }
    const stat = lstatat(from.fd, name, ENOENT);
    if (stat === undefined) continue;
    if (!isDirectory(stat)) {
      const path = `${from.path === '/' ? '' : from.path}/${name}` as ByteString;
      if (level.fresh) copyNew(from.fd, name, stat, to.fd, name, path, policy);
      else copyOver(from.fd, name, stat, to.fd, name, path, policy);
      continue;
    }
    if (sameInode(stat, top)) throw new StorageError('invalid-argument', 'Cannot copy a directory into itself');
    const fresh = mkdirat(to.fd, name, 0o700, EEXIST) === 0;
    if (!fresh && !isDirectory(lstatat(to.fd, name) as Stat)) throw notOnto(name, name, 'a directory', 'a file');
    from.enter(name);
    to.enter(name);
    stack.push({ names: from.names(), next: 0, fresh });
  }
}

/** What is no directory, to a name that is free in a directory that nobody else can enter. False: left out. */
function copyNew(
  fromDir: number,
  name: ByteString,
  stat: Stat,
  toDir: number,
  toName: ByteString,
  path: ByteString,
  { owner, onSkipped }: CopyPolicy,
): boolean {
  const type = typeOf(stat.mode);
  // A layer's device node that its owner may open would, owned anew, open the machine's disk.
  if (type === 'socket' || (owner !== undefined && type.endsWith('-device'))) {
    onSkipped(path, type);
    return false;
  }
  copyEntry(fromDir, name, toDir, toName);
  if (owner === undefined) return true;
  lchownat(toDir, toName, owner.uid, owner.gid); // takes capabilities away too (capabilities(7))
  if (type !== 'symlink') fchmodat(toDir, toName, stat.mode & 0o1777);
  return true;
}

/** As `copyNew`, over what may be there (no directory): made in a closed directory beside it, then renamed. */
function copyOver(
  fromDir: number,
  name: ByteString,
  stat: Stat,
  toDir: number,
  toName: ByteString,
  path: ByteString,
  policy: CopyPolicy,
): void {
  const existing = lstatat(toDir, toName, ENOENT);
  if (existing !== undefined) {
    const there = typeOf(existing.mode);
    if (there === 'directory') throw notOnto(path, toName, 'a file', 'a directory');
    // A device or fifo is what others use by its name: taking its place would break them (/dev/null, say).
    if (there !== 'file' && there !== 'symlink') throw notOnto(path, toName, 'a file', `a ${there}`);
  }
  const staging = temporaryName();
  mkdirat(toDir, staging, 0o700);
  const fd = openat(toDir, staging, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    if (copyNew(fromDir, name, stat, fd, toName, path, policy)) renameat(fd, toName, toDir, toName);
  } finally {
    unlinkat(fd, toName, 0, ENOENT);
    close(fd);
    unlinkat(toDir, staging, AT_REMOVEDIR);
  }
}

function finishDirectory(fromFd: number, toFd: number, { owner }: CopyPolicy): void {
  copyMetadata(fromFd, toFd);
  if (owner === undefined) return;
  lchownat(toFd, '.' as ByteString, owner.uid, owner.gid);
  fchmod(toFd, fstat(fromFd).mode & 0o1777);
}

function notOnto(from: ByteString, to: ByteString, what: string, there: string): StorageError {
  return new StorageError('already-exists', `Cannot copy ${quote(from)}, ${what}, to ${quote(to)}: ${there} is there`);
}
