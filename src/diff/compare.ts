import type { ByteString } from '../base/bytes.ts';
import { inodeKey, isDirectory, sameInode, typeOf } from '../fs/stat.ts';
import { readSome } from '../fs/transfer.ts';
import {
  CAPABILITY,
  keepXattr,
  sameXattrs,
  viaProc,
  type Xattrs,
  xattrsNamed,
  xattrsOf,
  xattrsOfFd,
} from '../fs/xattrs.ts';
import { close, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, openat, readlinkat, type Stat } from '../linux/inode.ts';
import { fgetxattr, lgetxattr } from '../linux/xattr.ts';
import type { Rendering } from './types.ts';

/** One entry of a tree, reachable while its directory is open; or that directory itself, by the name `.`. */
export interface Entry {
  /** The directory: asked for its descriptor where it is needed, for a way there where that is enough. */
  readonly at: { readonly fd: number; reach?(name: ByteString): { readonly fd: number; readonly path: ByteString } };
  readonly name: ByteString;
  readonly stat: Stat;
  /** The names of its extended attributes, where they are known. */
  readonly attributes?: readonly ByteString[] | undefined;
  /** Where its contents are read, if not there. */
  readonly contents?: { readonly fd: number };
}

/** As a name: the open directory itself. */
export const SELF = '.' as ByteString;
const CHUNK_BYTES = 256 * 1024;
const SECOND = 1_000_000_000n;

/** Contents that are still to be read: gives way again and again, and answers whether they are the same. */
type Reading = Generator<undefined, boolean, undefined>;

/** Whether two entries are equal, or what has to be read to tell. */
export type Verdict = boolean | Reading;

/** What the verdict says, by reading where it does not say; `check`: called now and then, what it throws ends it. */
export function* decided(verdict: Verdict, check: () => void = () => {}): Reading {
  if (typeof verdict === 'boolean') return verdict;
  try {
    for (;;) {
      const { done, value } = verdict.next();
      if (done) return value;
      check();
      yield;
    }
  } finally {
    verdict.return(false); // what it has open
  }
}

/** As `decided`, at once. */
export function decidedNow(verdict: Verdict): boolean {
  for (const deciding = decided(verdict); ; ) {
    const { done, value } = deciding.next();
    if (done) return value;
  }
}

/** Compares entries of a view with entries of its base. Keeps buffers; one for each walk. */
export class Comparer {
  #a: Buffer | undefined;
  #b: Buffer | undefined;
  readonly #rendering: Rendering;

  constructor(rendering: Rendering) {
    this.#rendering = rendering;
  }

  /**
   * Whether the rendering sees no difference (driver-behaviour D7). `inDoubt`: metadata alone does not prove that the
   * contents of two files are equal, so they are read: of large ones by who asks.
   */
  compare(view: Entry, base: Entry, inDoubt: boolean): Verdict {
    if (sameInode(view.stat, base.stat)) return true;
    return this.#rendering === 'core' ? this.#core(view, base, inDoubt) : this.#docker(view, base, inDoubt);
  }

  /** As `compare` where nothing is in doubt. */
  equal(view: Entry, base: Entry): boolean {
    return this.compare(view, base, false) === true;
  }

  #core(view: Entry, base: Entry, inDoubt: boolean): Verdict {
    const a = view.stat;
    const b = base.stat;
    if (!sameInodeFields(a, b)) return false;
    if (!isDirectory(a) && (a.sizeBytes !== b.sizeBytes || a.mtimeNs !== b.mtimeNs)) return false;
    if (!sameXattrs(xattrsOfEntry(view), xattrsOfEntry(base))) return false;
    return this.#sameContent(view, base, inDoubt);
  }

  #docker(view: Entry, base: Entry, inDoubt: boolean): Verdict {
    const a = view.stat;
    const b = base.stat;
    if (!sameInodeFields(a, b)) return false;
    if (!isDirectory(a) && (a.sizeBytes !== b.sizeBytes || !sameCoarseTime(a.mtimeNs, b.mtimeNs))) return false;
    const capability = capabilityOf(view);
    const before = capabilityOf(base);
    if (capability === undefined ? before !== undefined : before?.equals(capability) !== true) return false;
    return this.#sameContent(view, base, inDoubt || a.mtimeNs !== b.mtimeNs);
  }

  #sameContent(view: Entry, base: Entry, inDoubt: boolean): Verdict {
    const type = typeOf(view.stat.mode);
    if (type === 'symlink') return readlinkat(view.at.fd, view.name) === readlinkat(base.at.fd, base.name);
    if (type !== 'file' || !inDoubt || view.stat.sizeBytes === 0) return true;
    const reading = this.#sameBytes(view, base);
    return view.stat.sizeBytes < CHUNK_BYTES ? decidedNow(reading) : reading;
  }

  *#sameBytes(view: Entry, base: Entry): Reading {
    this.#a ??= Buffer.allocUnsafeSlow(CHUNK_BYTES);
    this.#b ??= Buffer.allocUnsafeSlow(CHUNK_BYTES);
    const flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK;
    const one = openat((view.contents ?? view.at).fd, view.name, flags);
    try {
      const other = openat(base.at.fd, base.name, flags);
      try {
        for (;;) {
          const a = readFully(one, this.#a, view.name);
          const b = readFully(other, this.#b, base.name);
          if (a !== b || this.#a.compare(this.#b, 0, b, 0, a) !== 0) return false;
          if (a < CHUNK_BYTES) return true;
          yield;
        }
      } finally {
        close(other);
      }
    } finally {
      close(one);
    }
  }
}

/** Type, permissions, owner, and for devices their number. */
export function sameInodeFields(a: Stat, b: Stat): boolean {
  if (a.mode !== b.mode || a.uid !== b.uid || a.gid !== b.gid) return false;
  const type = typeOf(a.mode);
  if (type !== 'character-device' && type !== 'block-device') return true;
  return a.rdevMajor === b.rdevMajor && a.rdevMinor === b.rdevMinor;
}

/** Docker's: whole seconds where either side has no fraction, as after a trip through an archive. */
function sameCoarseTime(a: bigint, b: bigint): boolean {
  if (a === b) return true;
  if (a % SECOND !== 0n && b % SECOND !== 0n) return false;
  return seconds(a) === seconds(b);
}

function seconds(ns: bigint): bigint {
  const rest = ((ns % SECOND) + SECOND) % SECOND;
  return (ns - rest) / SECOND;
}

/** Reads until the buffer is full or the file ends. */
function readFully(fd: number, buffer: Buffer, name: ByteString): number {
  let at = 0;
  while (at < buffer.length) {
    const read = readSome(fd, buffer, at, buffer.length - at, name);
    if (read === 0) break;
    at += read;
  }
  return at;
}

function xattrsOfEntry({ at, name, attributes }: Entry): Xattrs {
  if (name !== SELF) return xattrsOf(viaProc(at.fd, name));
  if (attributes !== undefined) return attributes.some(keepXattr) ? xattrsNamed(at.fd, attributes, keepXattr) : NONE;
  // To open a directory of a mount takes longer than the way to it.
  const way = at.reach?.(SELF);
  return way === undefined || way.path === SELF ? xattrsOfFd(at.fd) : xattrsOf(viaProc(way.fd, way.path));
}

const NONE: Xattrs = new Map();

function capabilityOf({ at, name, attributes }: Entry): Buffer | undefined {
  if (attributes?.includes(CAPABILITY) === false) return undefined;
  return name === SELF ? fgetxattr(at.fd, CAPABILITY) : lgetxattr(viaProc(at.fd, name), CAPABILITY);
}

/**
 * Finds names that the base has apart and that are linked now: of two such names the later one is a modify. Also knows
 * which inodes have a listed name. Memory: one record for each inode of the view that has several names.
 */
export class LinkGroups {
  readonly #base = new Map<string, string>();

  /**
   * Takes the names of the view in listing order; `base` is what the base shows under the same name. True if an earlier
   * name of the same inode has another inode in the base.
   */
  joins(view: Stat, base: Stat): boolean {
    const group = inodeKey(view);
    const now = inodeKey(base);
    const first = this.#base.get(group);
    if (first === undefined) {
      this.#base.set(group, now);
      return false;
    }
    if (first !== MIXED && first === now) return false;
    this.#base.set(group, MIXED);
    return true;
  }
}

/** In place of a base inode: the earlier names have several, so that at least one differs from any other. */
const MIXED = '*';
