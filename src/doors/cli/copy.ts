import { setImmediate } from 'node:timers/promises';
import { type ByteString, joinBytes, quote } from '../../base/bytes.ts';
import { nowMs } from '../../base/clock.ts';
import { StorageError } from '../../base/errors.ts';
import type { Abortable } from '../../base/values.ts';
import { temporaryName } from '../../fs/atomic.ts';
import { copyEntry, copyMetadata } from '../../fs/copy.ts';
import { Descent } from '../../fs/descent.ts';
import { removeTree } from '../../fs/remove.ts';
import type { Parent, Root } from '../../fs/rooted.ts';
import { isDirectory, typeOf } from '../../fs/stat.ts';
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
import { ENOENT } from '../../linux/libc.ts';

// As `docker cp`: a directory goes into one that is there, `dir/.` is its content, a symlink is copied as it is, the
// destination's parent must exist. Hard links become copies. Both sides are reached through a Root.
//
// A directory that the target lacks is made under a temporary name and renamed when it is whole. The name also tells that
// a tree contains its own copy: a layer's files are seen by way of its mount and of its upper directory, which share
// neither device nor inode number, but the random name is the same in both.

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

const HERE = '.' as ByteString;
const SYMLINKS_MAX = 40;
/** How long the copy may keep signals waiting. */
const BREATH_MS = 50;

/**
 * Copies what `from` names to `to`. A directory that was not there is there whole or not at all; what was merged into
 * one that is there until a failure stays.
 */
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
    if (inside && name === undefined) {
      using target = new Descent(openDirectory(to.root, path));
      await new TreeCopy(tree, target, policy).content();
      return;
    }
    const into =
      name === undefined
        ? to.root.parent(path.replace(/\/\.?$/, '') as ByteString)
        : { dir: openDirectory(to.root, path), name };
    using parent = new OpenParent(into);
    using target = new Descent(openat(parent.dir, HERE, O_RDONLY | O_DIRECTORY));
    await new TreeCopy(tree, target, policy).directory(parent.name);
    return;
  }
  if (!inside && /\/\.?$/.test(to.path)) {
    throw new StorageError('not-found', `Cannot copy to ${quote(to.path)}: there is no such directory`);
  }
  using origin = new OpenParent(from.root.parent(from.path));
  using target = new OpenParent(
    inside ? { dir: openDirectory(to.root, path), name: lastName(from.path) as ByteString } : to.root.parent(path),
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

function openDirectory(root: Root, path: ByteString): number {
  return root.open(`${path}/` as ByteString, O_RDONLY | O_DIRECTORY);
}

interface Level {
  readonly names: readonly ByteString[];
  next: number;
  /** Made by this copy: empty, and nobody else's until it is finished. */
  readonly fresh: boolean;
  /** What it is renamed to when it is whole. */
  readonly finally?: ByteString;
}

/** Copies a tree, side by side, below where `to` stands. */
class TreeCopy {
  readonly #from: Descent;
  readonly #to: Descent;
  readonly #policy: CopyPolicy;
  readonly #levels: Level[] = [];
  /** The directory that is being made, and how deep below the target it is. */
  #temporary: { readonly name: ByteString; readonly depth: number } | undefined;

  constructor(from: Descent, to: Descent, policy: CopyPolicy) {
    this.#from = from;
    this.#to = to;
    this.#policy = policy;
  }

  /** All that is in the source's directory, into the target's. */
  async content(): Promise<void> {
    this.#levels.push({ names: this.#from.names(), next: 0, fresh: false });
    await this.#run();
  }

  /** The source's directory itself, as `name` in the target's. */
  async directory(name: ByteString): Promise<void> {
    this.#begin(name, false);
    await this.#run();
  }

  async #run(): Promise<void> {
    try {
      let breathed = nowMs();
      for (let level = this.#levels.at(-1); level !== undefined; level = this.#levels.at(-1)) {
        if (nowMs() - breathed > BREATH_MS) {
          await setImmediate();
          this.#policy.signal?.throwIfAborted();
          breathed = nowMs();
        }
        const name = level.names[level.next++];
        if (name === undefined) this.#end(level);
        else this.#entry(name, level.fresh);
      }
    } catch (error) {
      this.#undo();
      throw error;
    }
  }

  #entry(name: ByteString, fresh: boolean): void {
    const [from, to] = [this.#from, this.#to];
    if (name === this.#temporary?.name)
      throw new StorageError('invalid-argument', 'Cannot copy a directory into itself');
    const stat = lstatat(from.fd, name, ENOENT);
    if (stat === undefined) return;
    if (isDirectory(stat)) {
      from.enter(name);
      this.#begin(name, fresh);
      return;
    }
    const path = joinBytes(from.path, name);
    if (fresh) copyNew(from.fd, name, stat, to.fd, name, path, this.#policy);
    else copyOver(from.fd, name, stat, to.fd, name, path, this.#policy);
  }

  /** Begins `name` in the target's directory with what is in the source's. */
  #begin(name: ByteString, inFresh: boolean): void {
    const to = this.#to;
    const there = inFresh ? undefined : lstatat(to.fd, name, ENOENT);
    if (there !== undefined) {
      if (!isDirectory(there)) throw notOnto(name, name, 'a directory', 'a file');
      to.enter(name);
      this.#levels.push({ names: this.#from.names(), next: 0, fresh: false });
      return;
    }
    const made = inFresh ? name : temporaryName();
    mkdirat(to.fd, made, 0o700);
    if (!inFresh) this.#temporary = { name: made, depth: to.depth };
    to.enter(made);
    this.#levels.push({ names: this.#from.names(), next: 0, fresh: true, ...(inFresh ? {} : { finally: name }) });
  }

  #end(level: Level): void {
    const [from, to] = [this.#from, this.#to];
    if (level.fresh) finishDirectory(from.fd, to.fd, this.#policy);
    this.#levels.pop();
    if (from.depth > 0) from.leave();
    if (to.depth > 0) to.leave();
    if (level.finally === undefined || this.#temporary === undefined) return;
    // Over what somebody made there meanwhile only if that is an empty directory.
    renameat(to.fd, this.#temporary.name, to.fd, level.finally);
    this.#temporary = undefined;
  }

  /** Takes away what is half made. */
  #undo(): void {
    if (this.#temporary === undefined) return;
    const { name, depth } = this.#temporary;
    try {
      while (this.#to.depth > depth) this.#to.leave();
      removeTree(this.#to.fd, name);
    } catch {
      // The first failure is the one to tell; what is left has a name that says what it is.
    }
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
