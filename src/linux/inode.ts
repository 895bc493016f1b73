import { type ByteString, quote } from '../base/bytes.ts';
import { closing, opened } from '../base/descriptors.ts';
import { StorageError } from '../base/errors.ts';
import { beside, cstring, EAGAIN, EINVAL, judge, libc, NR, scratchPath, systemError } from './libc.ts';
import { type BriefStat, brieflyFilledIn, filledIn, isFilledInAs, STATX, type Stat, uint64 } from './statx.ts';

export type { BriefStat, Stat };

// One function per system call. Each answers ≥ 0, or the negative errno where the caller named that errno in
// `tolerated`, and throws on every other failure. Paths are relative to `dir`, or to the working directory for AT_FDCWD.

export const AT_FDCWD = -100;
export const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_REMOVEDIR = 0x200;
export const AT_SYMLINK_FOLLOW = 0x400;
export const AT_EMPTY_PATH = 0x1000;

export const O_RDONLY = 0;
export const O_WRONLY = 1;
export const O_RDWR = 2;
export const O_CREAT = 0o100;
export const O_EXCL = 0o200;
export const O_TRUNC = 0o1000;
export const O_NONBLOCK = 0o4000;
// These three differ between x86 and arm64 (asm/fcntl.h).
export const O_DIRECTORY: number = process.arch === 'arm64' ? 0o40000 : 0o200000;
export const O_NOFOLLOW: number = process.arch === 'arm64' ? 0o100000 : 0o400000;
export const O_NOATIME = 0o1000000;
export const O_CLOEXEC = 0o2000000;
export const O_PATH = 0o10000000;
export const O_TMPFILE: number = 0o20000000 | O_DIRECTORY;

export const RESOLVE_NO_XDEV = 0x01;
export const RESOLVE_NO_MAGICLINKS = 0x02;
export const RESOLVE_NO_SYMLINKS = 0x04;
export const RESOLVE_BENEATH = 0x08;
export const RESOLVE_IN_ROOT = 0x10;

export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;
export const S_ISGID = 0o002000;

/** openat(2), always closed on exec. Answers the descriptor. */
export function openat(dir: number, path: ByteString, flags: number, mode = 0, ...tolerated: number[]): number {
  return opened(judge(libc.openat(dir, scratchPath(path), flags | O_CLOEXEC, mode), 'open', path, tolerated));
}

/** open_by_handle_at(2): what name_to_handle_at(2) called so in the filesystem that `fd` (not an O_PATH one) is in. */
export function openByHandle(
  fd: number,
  type: number,
  handle: Uint8Array,
  flags: number,
  ...tolerated: number[]
): number {
  const named = Buffer.alloc(8 + handle.length);
  named.writeUInt32LE(handle.length, 0);
  named.writeInt32LE(type, 4);
  named.set(handle, 8);
  const result = libc.open_by_handle_at(fd, named, flags | O_CLOEXEC);
  return opened(judge(result, 'open by a handle in', fd, tolerated));
}

/**
 * openat2(2) with `resolve` (RESOLVE_*). EAGAIN, which the kernel answers when something was renamed or mounted
 * meanwhile, is tried again up to 1,000 times (openat2(2), ERRORS).
 */
export function openat2(
  dir: number,
  path: ByteString,
  flags: number,
  mode: number,
  resolve: number,
  ...tolerated: number[]
): number {
  const how = Buffer.alloc(24);
  how.writeBigUInt64LE(BigInt(flags | O_CLOEXEC), 0);
  how.writeBigUInt64LE(BigInt(mode), 8);
  how.writeBigUInt64LE(BigInt(resolve), 16);
  const name = cstring(path);
  for (let tries = 0; ; tries++) {
    const result = judge(libc.openat2(NR.openat2, dir, name, how, how.length), 'open', path, [...tolerated, EAGAIN]);
    if (result !== -EAGAIN) return opened(result);
    if (tries === 1000) throw systemError('open', EAGAIN, path);
  }
}

/** close(2). Failures are not told: the descriptor is gone in any case, and data was synced where it matters. */
export function close(fd: number): void {
  closing(fd);
  libc.close(fd);
}

/** As `close`, by another thread, some time soon: the last descriptor of something large takes the kernel long. */
export function closeBeside(fd: number): void {
  closing(fd);
  beside('int close(int)', fd).catch(() => libc.close(fd)); // none could be had
}

export function mkdirat(dir: number, path: ByteString, mode: number, ...tolerated: number[]): number {
  return judge(libc.mkdirat(dir, scratchPath(path), mode), 'make directory', path, tolerated);
}

/** mknodat(2): `mode` holds the type bits; the device number is made of `major` and `minor`. */
export function mknodat(
  dir: number,
  path: ByteString,
  mode: number,
  major: number,
  minor: number,
  ...tolerated: number[]
): number {
  return judge(libc.mknodat(dir, cstring(path), mode, makedev(major, minor)), 'make node', path, tolerated);
}

/** The number that C libraries give a device (gnu_dev_makedev). */
export function makedev(major: number, minor: number): bigint {
  const a = BigInt(major);
  const i = BigInt(minor);
  return ((a & 0xfffn) << 8n) | ((a & ~0xfffn) << 32n) | (i & 0xffn) | ((i & ~0xffn) << 12n);
}

export function symlinkat(target: ByteString, dir: number, path: ByteString, ...tolerated: number[]): number {
  return judge(libc.symlinkat(cstring(target), dir, cstring(path)), 'make symbolic link', path, tolerated);
}

/** linkat(2); a symlink at `from` is itself linked, unless flags hold AT_SYMLINK_FOLLOW. */
export function linkat(
  fromDir: number,
  from: ByteString,
  toDir: number,
  to: ByteString,
  flags = 0,
  ...tolerated: number[]
): number {
  return judge(libc.linkat(fromDir, cstring(from), toDir, cstring(to), flags), 'link', to, tolerated);
}

export function unlinkat(dir: number, path: ByteString, flags = 0, ...tolerated: number[]): number {
  return judge(libc.unlinkat(dir, cstring(path), flags), 'remove', path, tolerated);
}

export function renameat(
  fromDir: number,
  from: ByteString,
  toDir: number,
  to: ByteString,
  ...tolerated: number[]
): number {
  return judge(libc.renameat(fromDir, cstring(from), toDir, cstring(to)), 'rename', from, tolerated);
}

export const RENAME_NOREPLACE = 1;
export const RENAME_EXCHANGE = 2;

export function renameat2(
  fromDir: number,
  from: ByteString,
  toDir: number,
  to: ByteString,
  flags: number,
  ...tolerated: number[]
): number {
  const result = libc.renameat2(NR.renameat2, fromDir, cstring(from), toDir, cstring(to), flags);
  return judge(result, 'rename', from, tolerated);
}

/** chmod of what the path names; a symlink at the end is followed, so callers know that it is none. */
export function fchmodat(dir: number, path: ByteString, mode: number, ...tolerated: number[]): number {
  return judge(libc.fchmodat(dir, cstring(path), mode, 0), 'change mode of', path, tolerated);
}

export function fchmod(fd: number, mode: number, ...tolerated: number[]): number {
  return judge(libc.fchmod(fd, mode), 'change mode of', fd, tolerated);
}

export function fchown(fd: number, uid: number, gid: number): void {
  const result = judge(libc.fchown(fd, uid, gid), 'change owner of', fd, [EINVAL]);
  if (result < 0) throw unmapped(`descriptor ${fd}` as ByteString, uid, gid);
}

/** Owner and group; a symlink at the end is itself changed. */
export function lchownat(dir: number, path: ByteString, uid: number, gid: number, ...tolerated: number[]): number {
  const result = libc.fchownat(dir, cstring(path), uid, gid, AT_SYMLINK_NOFOLLOW);
  const judged = judge(result, 'change owner of', path, [...tolerated, EINVAL]);
  if (judged === -EINVAL && !tolerated.includes(EINVAL)) throw unmapped(path, uid, gid);
  return judged;
}

/** EINVAL of chown(2) means one thing only: this user namespace has no such id (user_namespaces(7)). */
function unmapped(path: ByteString, uid: number, gid: number): StorageError {
  return new StorageError(
    'permission-denied',
    `Cannot change owner of ${quote(path)} to ${uid}:${gid}: this user namespace does not map these ids (EINVAL)`,
    { path, syscall: 'change owner of', errno: 'EINVAL', remedy: "run it as the host's root, or with more ids mapped" },
  );
}

const UTIME_OMIT = 0x3ffffffen;
const BILLION = 1_000_000_000n;

/** Sets access and modification time in ns (undefined: left as it is); a symlink at the end is itself changed. */
export function utimensat(
  dir: number,
  path: ByteString,
  atimeNs: bigint | undefined,
  mtimeNs: bigint | undefined,
  ...tolerated: number[]
): number {
  const result = libc.utimensat(dir, scratchPath(path), timespecs(atimeNs, mtimeNs), AT_SYMLINK_NOFOLLOW);
  return judge(result, 'set times of', path, tolerated);
}

/** futimens(3). */
export function futimens(fd: number, atimeNs: bigint | undefined, mtimeNs: bigint | undefined): void {
  judge(libc.futimens(fd, timespecs(atimeNs, mtimeNs)), 'set times of', fd, []);
}

/** Read by the kernel at once, as `scratchPath`. */
const TIMES = Buffer.allocUnsafeSlow(32);
const TIMES_64 = new BigInt64Array(TIMES.buffer);

function timespecs(atimeNs: bigint | undefined, mtimeNs: bigint | undefined): Buffer {
  writeTimespec(0, atimeNs);
  writeTimespec(2, mtimeNs);
  return TIMES;
}

function writeTimespec(at: number, ns: bigint | undefined): void {
  const rest = ns === undefined ? UTIME_OMIT : ((ns % BILLION) + BILLION) % BILLION;
  TIMES_64[at] = ns === undefined ? 0n : (ns - rest) / BILLION;
  TIMES_64[at + 1] = rest;
}

/** The target's bytes (at most PATH_MAX), or undefined where the errno (negative answer) was tolerated. */
export function readlinkat(dir: number, path: ByteString, ...tolerated: number[]): ByteString | undefined {
  const buffer = Buffer.allocUnsafe(4096);
  const length = judge(Number(libc.readlinkat(dir, cstring(path), buffer, 4096)), 'read link', path, tolerated);
  return length < 0 ? undefined : (buffer.toString('latin1', 0, length) as ByteString);
}

const STATX_BASIC_AND_MNT_ID = 0x7ff | 0x1000;

/** statx(2) without following a symlink at the end; undefined where the errno was tolerated. */
export function lstatat(dir: number, path: ByteString, ...tolerated: number[]): Stat | undefined {
  return statx(dir, path, AT_SYMLINK_NOFOLLOW, tolerated);
}

/** As `lstatat`, for who asks of many names nothing more. */
export function lstatBriefly(dir: number, path: ByteString, ...tolerated: number[]): BriefStat | undefined {
  const result = libc.statx(dir, scratchPath(path), AT_SYMLINK_NOFOLLOW, STATX_BASIC_AND_MNT_ID, STATX);
  if (judge(result, 'stat', path, tolerated) < 0) return undefined;
  return brieflyFilledIn();
}

/** statx(2) of an open descriptor (O_PATH ones too). */
export function fstat(fd: number): Stat {
  return statx(fd, '' as ByteString, AT_EMPTY_PATH, []) as Stat;
}

/** Whether an open descriptor's inode is what it was, but for when it was read and where its data lie. */
export function isStill(fd: number, before: Stat): boolean {
  const result = libc.statx(fd, scratchPath('' as ByteString), AT_EMPTY_PATH, STATX_BASIC_AND_MNT_ID, STATX);
  judge(result, 'stat', fd, []);
  return isFilledInAs(before);
}

function statx(dir: number, path: ByteString, flags: number, tolerated: readonly number[]): Stat | undefined {
  const result = libc.statx(dir, scratchPath(path), flags, STATX_BASIC_AND_MNT_ID, STATX);
  if (judge(result, 'stat', path, tolerated) < 0) return undefined;
  return filledIn();
}

/** ftruncate(2): sets the length; what is beyond the data is a hole. */
export function ftruncate(fd: number, sizeBytes: number): void {
  judge(libc.ftruncate(fd, sizeBytes), 'set the size of', fd, []);
}

export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

export function lseek(fd: number, offset: number, whence: number, ...tolerated: number[]): number {
  return judge(Number(libc.lseek(fd, offset, whence)), 'seek in', fd, tolerated);
}

const LISTING = Buffer.allocUnsafeSlow(64 * 1024);
// As in statx.ts.
const LISTING_16 = new Uint16Array(LISTING.buffer);
const LISTING_32 = new Uint32Array(LISTING.buffer);

export interface DirectoryEntry {
  readonly name: ByteString;
  readonly ino: number;
  /** DT_*: 0 where the filesystem does not tell. */
  readonly type: number;
}

export const DT_UNKNOWN = 0;
export const DT_FIFO = 1;
export const DT_CHR = 2;
export const DT_DIR = 4;
export const DT_BLK = 6;
export const DT_REG = 8;
export const DT_LNK = 10;
export const DT_SOCK = 12;

/** getdents64(2) until the end, without `.` and `..`, in the filesystem's own order. */
export function readDirectory(fd: number, path: ByteString | string): DirectoryEntry[] {
  const buffer = LISTING;
  const entries: DirectoryEntry[] = [];
  for (;;) {
    const length = judge(Number(libc.getdents64(NR.getdents64, fd, buffer, buffer.length)), 'list', path, []);
    if (length === 0) return entries;
    let last = 0;
    for (let at = 0; at < length; ) {
      last = at;
      // struct linux_dirent64, each at a multiple of 8 (fs/readdir.c)
      const size = LISTING_16[(at >> 1) + 8]!;
      let end = at + 19;
      while (buffer[end] !== 0) end++;
      const name = buffer.toString('latin1', at + 19, end) as ByteString;
      if (name !== '.' && name !== '..') {
        entries.push({ name, ino: uint64(LISTING_32, at >> 2), type: buffer[at + 18] ?? 0 });
      }
      at += size;
    }
    // Where the next one would be: ext4 and btrfs say so that there is none (EXT4_HTREE_EOF_64BIT, btrfs_real_readdir).
    if (LISTING_32[(last >> 2) + 2] === 0xffff_ffff && LISTING_32[(last >> 2) + 3] === 0x7fff_ffff) return entries;
  }
}
