import type { ByteString } from '../base/bytes.ts';
import { isStorageError } from '../base/errors.ts';
import { IDENTITY, toContainer } from '../base/id-map.ts';
import { Descent } from '../fs/descent.ts';
import { doAll, NO_PIECES, type Pieces, ReadAhead } from '../fs/read-ahead.ts';
import { inodeKey, isDirectory, isFile, isSocket, isWhiteout, typeOf } from '../fs/stat.ts';
import { isMarked, showsItself, WHITEOUT_PREFIX } from '../fs/whiteouts.ts';
import {
  CAPABILITY,
  keepXattr,
  mapXattrs,
  viaProc,
  type Xattrs,
  xattrsNamed,
  xattrsOf,
  xattrsOfFd,
} from '../fs/xattrs.ts';
import { cachedContent } from '../linux/copy.ts';
import {
  close,
  fstat,
  isStill,
  lstatat,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  openat,
  readlinkat,
  type Stat,
} from '../linux/inode.ts';
import { ELOOP, ENOENT, ENOTDIR, ENXIO, located } from '../linux/libc.ts';
import { flistxattr } from '../linux/xattr.ts';
import { paddingOf } from '../tar/header.ts';
import type { TarEntry, TarEntryType } from '../tar/types.ts';
import { trailer } from '../tar/write.ts';
import { Contents } from './contents.ts';
import { Output, type TarPieces } from './output.ts';
import { changed, ofReading, refuseWhiteoutName } from './reading.ts';
import type { Packable, PackOptions } from './types.ts';

const SECOND = 1_000_000_000n;
/** Of the headers of most entries: a time in PAX, and the entry itself. */
const ENTRY_BYTES = 1536;
const READING = O_RDONLY | O_NOFOLLOW | O_NONBLOCK;
const NO_XATTRS: Xattrs = new Map();
const EMPTY = '' as ByteString;
const WHITEOUT: TarEntry = {
  type: 'file',
  name: EMPTY,
  linkName: EMPTY,
  mode: 0,
  uid: 0,
  gid: 0,
  sizeBytes: 0,
  mtimeNs: 0n,
  devMajor: 0,
  devMinor: 0,
  xattrs: NO_XATTRS,
};

/**
 * Writes the layer archive of `differences` (in their order: see there), reading what they name below `root`. Equal
 * trees and differences give equal bytes (driver-behaviour D8). `out` is called with up to 1 MiB at a time, first less.
 * A file that cannot be read, or is written to meanwhile, fails the whole archive.
 */
export function packTree(...what: Parameters<typeof packPieces>): void {
  doAll(packPieces(...what));
}

/** Asks `packPieces` to give out what it has gathered. */
export const FLUSH = 'flush';

/** As `packTree`, piece by piece: after each entry or undefined, and each MiB of a large one. */
export function* packPieces(
  root: ByteString,
  differences: Iterable<Packable | undefined>,
  options: PackOptions,
  out: TarPieces,
): Generator<void, void, typeof FLUSH | undefined> {
  using view = Descent.open(root);
  using upper = options.upper === undefined ? undefined : Descent.open(options.upper);
  using packer = new Packer(root, { view, upper }, options, out);
  for (const difference of differences) {
    if (difference !== undefined) for (const _ of packer.add(difference)) yield;
    if ((yield) === FLUSH) packer.flush();
  }
  for (const _ of packer.finish()) yield;
}

class Packer implements Disposable {
  readonly #root: ByteString;
  readonly #options: PackOptions;
  readonly #view: Descent;
  readonly #upper: Descent | undefined;
  readonly #output: Output;
  readonly #contents: Contents;
  readonly #ahead: ReadAhead<TarEntry>;
  /** Archive name of the first name of each inode that has several. */
  readonly #linked = new Map<string, ByteString>();
  /** The directories from the root to the last entry that the archive holds already. */
  #parents: ByteString[] = [];

  constructor(
    root: ByteString,
    { view, upper }: { readonly view: Descent; readonly upper: Descent | undefined },
    options: PackOptions,
    out: TarPieces,
  ) {
    this.#root = root;
    this.#options = options;
    this.#output = new Output(out);
    this.#contents = new Contents(root, this.#output);
    this.#ahead = new ReadAhead((what) => {
      if (what instanceof Uint8Array) this.#output.write(what);
      else this.#output.entry(what);
    });
    this.#view = view;
    this.#upper = upper;
  }

  [Symbol.dispose](): void {
    this.#ahead[Symbol.dispose]();
  }

  add(difference: Packable): Pieces {
    try {
      this.#add(difference);
    } catch (error) {
      if (difference.early === true && saysGone(error)) return NO_PIECES; // with the directory that it was in
      throw ofReading(located(error, difference.path), difference.path, this.#root);
    }
    return this.#ahead.advance(); // its errors are of other paths
  }

  #add(difference: Packable): void {
    if (difference.path === '/') {
      this.#directory(this.#view.fd, './' as ByteString);
      return;
    }
    const names = difference.path.slice(1).split('/') as ByteString[];
    const name = names.pop() as ByteString;
    refuseWhiteoutName(difference.path, name);
    // What leads to something in the upper is there too.
    const at = (difference.itself === true ? this.#upper : undefined) ?? this.#view;
    if (difference.kind === 'implied' && isThere(at, [...names, name])) return;
    if (this.#isWritten(names, name)) return; // for a linked file in it, which was decided after it was walked through
    this.#enter(at, names);
    const prefix = names.length === 0 ? '' : `${names.join('/')}/`;
    if (difference.kind === 'delete') this.#whiteout(prefix, name);
    else if (difference.kind === 'implied') this.#isGone(at, prefix, name, difference);
    else if (
      at === this.#view ||
      !(this.#entryOfUpper(at, prefix, name, difference) || this.#isGone(at, prefix, name, difference))
    ) {
      this.#entry(prefix, name, difference);
    }
  }

  /**
   * Whether nothing of the layer is there any more, where what was seen was seen a moment ago; says that it was deleted
   * where that is so.
   */
  #isGone(upper: Descent, prefix: string, name: ByteString, { kind, stat: seen, early }: Packable): boolean {
    if (early !== true || (seen === undefined && kind !== 'implied')) return false;
    const own = lstatat(upper.fd, name, ENOENT);
    this.#view.moveTo(namesIn(prefix));
    const shown = lstatat(this.#view.fd, name, ENOENT);
    if (own !== undefined && shown !== undefined && !isWhiteout(own)) {
      if (isDirectory(own) === (seen === undefined || isDirectory(seen))) return false;
      throw changed(`${prefix}${name}` as ByteString, 'another took its place'); // what is in it was not looked at
    }
    if (shown === undefined && kind !== 'add') this.#whiteout(prefix, name);
    return true;
  }

  flush(): void {
    this.#output.flush();
  }

  *finish(): Generator<void, void, undefined> {
    yield* this.#ahead.drain();
    this.#output.write(trailer());
    this.#output.flush();
  }

  /** Whether the archive has that directory, and as the last thing what is in it. */
  #isWritten(names: readonly ByteString[], name: ByteString): boolean {
    const parents = this.#parents;
    return parents[names.length] === name && names.every((one, i) => parents[i] === one);
  }

  /** Goes to the directory, writing an entry for each one on the way that has none yet. */
  #enter(at: Descent, names: readonly ByteString[]): void {
    let common = 0;
    while (common < names.length && this.#parents[common] === names[common]) common++;
    this.#parents.length = common;
    for (let depth = common; depth < names.length; depth++) {
      const path = names.slice(0, depth + 1);
      refuseWhiteoutName(`/${path.join('/')}` as ByteString, names[depth] as ByteString);
      at.moveTo(path);
      this.#directory(at.fd, `${path.join('/')}/` as ByteString);
      this.#parents.push(names[depth] as ByteString);
    }
    at.moveTo(names);
  }

  /**
   * Of what the view shows as it lies in the upper directory, which is faster to read: nothing is asked twice, and not of
   * a mount that was made a moment ago. False, with nothing written, where the view is to be asked all the same.
   */
  #entryOfUpper(upper: Descent, prefix: string, name: ByteString, difference: Packable): boolean {
    if (difference.stat !== undefined && isDirectory(difference.stat)) {
      if (upper.enter(name, ENOENT, ENOTDIR, ELOOP) < 0) return false;
      this.#entered(upper, `${prefix}${name}/` as ByteString, name);
      return true;
    }
    if (difference.stat === undefined || !isFile(difference.stat)) {
      const stat = lstatat(upper.fd, name, ENOENT);
      if (stat === undefined || isFile(stat) || isWhiteout(stat) || !showsItself(stat)) return false;
      this.#entryOf(upper, prefix, name, { stat, difference });
      return true;
    }
    const fd = openat(upper.fd, name, READING, 0, ENOENT, ELOOP, ENXIO);
    if (fd < 0) return false;
    let taken = false;
    try {
      const archived = `${prefix}${name}` as ByteString;
      if (difference.early === true && this.#ahead.isEmpty) {
        const xattrs = flistxattr(fd);
        if (isMarked(xattrs)) return false;
        if (this.#atOnce(fd, archived, difference.stat, xattrs)) return true;
      }
      const stat = fstat(fd);
      const xattrs = flistxattr(fd); // again: no older than the stat
      if (!isFile(stat) || !showsItself(stat) || isMarked(xattrs)) return false;
      taken = this.#file(fd, archived, stat, xattrs);
      return true;
    } finally {
      if (!taken) close(fd);
    }
  }

  /** A small file in memory that is, after the reading, what it was when seen; false, with nothing written, for others. */
  #atOnce(fd: number, archived: ByteString, seen: Stat, xattrs: readonly ByteString[]): boolean {
    const { sizeBytes } = seen;
    if (!this.#ahead.isEmpty) return false;
    const values = xattrsNamed(fd, xattrs, this.#keep);
    const bytes = cachedContent(fd, sizeBytes);
    if (bytes === undefined || !isStill(fd, seen)) return false;
    this.#header('file', archived, seen, values, { sizeBytes });
    this.#output.write(bytes);
    this.#output.zeros(paddingOf(sizeBytes));
    return true;
  }

  #entry(prefix: string, name: ByteString, difference: Packable): void {
    const at = this.#view;
    at.moveTo(namesIn(prefix));
    const archived = `${prefix}${name}` as ByteString;
    if (difference.stat !== undefined && isFile(difference.stat)) {
      const fd = openat(at.fd, name, READING, 0, ENOENT, ELOOP, ENXIO);
      if (fd >= 0 && this.#opened(fd, archived)) return;
    }
    // Again: the walk may hold its steps back for long, and its stat would be of then.
    const stat = lstatat(at.fd, name, ENOENT);
    if (stat === undefined) throw changed(archived, 'it vanished');
    if (!isFile(stat)) {
      if (!this.#isLinked(archived, stat)) this.#entryOf(at, prefix, name, { stat, difference });
      return;
    }
    if (!this.#opened(openat(at.fd, name, READING), archived)) throw changed(archived, 'another took its place');
  }

  /** What was opened, if it is a file; takes `fd` over. */
  #opened(fd: number, archived: ByteString): boolean {
    let taken = false;
    try {
      const stat = fstat(fd);
      if (!isFile(stat)) return false;
      if (this.#isLinked(archived, stat)) return true;
      taken = this.#file(fd, archived, stat, flistxattr(fd));
      return true;
    } finally {
      if (!taken) close(fd);
    }
  }

  /** Whether it is another name of what the archive holds, as which it is written; else it is the first. */
  #isLinked(archived: ByteString, stat: Stat): boolean {
    if (stat.nlink === 1 || isDirectory(stat) || isSocket(stat)) return false;
    const key = inodeKey(stat);
    const first = this.#linked.get(key);
    if (first === undefined) this.#linked.set(key, archived);
    else this.#header('hardlink', archived, stat, NO_XATTRS, { linkName: first });
    return first !== undefined;
  }

  /** Of anything but a file. */
  #entryOf(
    at: Descent,
    prefix: string,
    name: ByteString,
    { stat, difference }: { readonly stat: Stat; readonly difference: Packable },
  ): void {
    const archived = `${prefix}${name}` as ByteString;
    const type = typeOf(stat.mode);
    if (type === 'directory') {
      at.enter(name);
      this.#entered(at, `${archived}/` as ByteString, name);
    } else if (type === 'socket') {
      this.#options.skipped?.(`/${archived}` as ByteString, 'an archive cannot hold a socket');
      if (difference.kind === 'modify') this.#whiteout(prefix, name); // what was there before is gone all the same
    } else {
      const xattrs = xattrsOf(viaProc(at.fd, name), this.#keep);
      const linkName = type === 'symlink' ? (readlinkat(at.fd, name) as ByteString) : EMPTY;
      this.#header(type, archived, stat, xattrs, { linkName });
    }
  }

  #entered(at: Descent, archived: ByteString, name: ByteString): void {
    this.#directory(at.fd, archived);
    this.#parents.push(name);
  }

  #directory(fd: number, archived: ByteString): void {
    this.#header('directory', archived, fstat(fd), xattrsOfFd(fd, this.#keep));
  }

  /** Answers whether it takes `fd` over. `xattrs`: the names of those that it has. */
  #file(fd: number, archived: ByteString, stat: Stat, xattrs: readonly ByteString[]): boolean {
    const { sizeBytes } = stat;
    if (this.#atOnce(fd, archived, stat, xattrs)) return false;
    this.#header('file', archived, stat, xattrsNamed(fd, xattrs, this.#keep), { sizeBytes });
    const file = { fd, sizeBytes, [Symbol.dispose]: () => close(fd) };
    this.#ahead.file(file, () => this.#contents.read(fd, archived, stat));
    return true;
  }

  #whiteout(prefix: string, name: ByteString): void {
    this.#put({ ...WHITEOUT, name: `${prefix}${WHITEOUT_PREFIX}${name}` as ByteString });
  }

  #header(
    type: TarEntryType,
    name: ByteString,
    stat: Stat,
    xattrs: Xattrs,
    more: Partial<Pick<TarEntry, 'linkName' | 'sizeBytes'>> = {},
  ): void {
    const ids = this.#options.ids ?? IDENTITY;
    const isDevice = type === 'character-device' || type === 'block-device';
    this.#put({
      type,
      name,
      linkName: EMPTY,
      mode: stat.mode & 0o7777,
      uid: toContainer(stat.uid, ids.uid, 'user'),
      gid: toContainer(stat.gid, ids.gid, 'group'),
      sizeBytes: 0,
      mtimeNs: this.#options.xattrs === 'docker' ? wholeSeconds(stat.mtimeNs) : stat.mtimeNs,
      devMajor: isDevice ? stat.rdevMajor : 0,
      devMinor: isDevice ? stat.rdevMinor : 0,
      xattrs: mapXattrs(xattrs, ids, toContainer),
      ...more,
    });
  }

  #put(entry: TarEntry): void {
    this.#ahead.later(entry, ENTRY_BYTES);
  }

  readonly #keep = (name: ByteString): boolean =>
    this.#options.xattrs === 'docker' ? name === CAPABILITY : keepXattr(name);
}

/** Of the directories that a prefix of names leads through. */
function namesIn(prefix: string): ByteString[] {
  return prefix.split('/').slice(0, -1) as ByteString[];
}

function isThere(at: Descent, names: readonly ByteString[]): boolean {
  try {
    at.moveTo(names);
    return true;
  } catch (error) {
    if (saysGone(error)) return false;
    throw error;
  }
}

/** Of a name, or of a directory on the way to it. */
function saysGone(error: unknown): boolean {
  return isStorageError(error) && (error.errno === 'ENOENT' || error.errno === 'ENOTDIR');
}

function wholeSeconds(ns: bigint): bigint {
  return ns - (((ns % SECOND) + SECOND) % SECOND);
}
