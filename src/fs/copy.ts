import { type ByteString, joinBytes, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { copyFileRange, ficlone } from '../linux/copy.ts';
import {
  close,
  fchmod,
  fchmodat,
  fstat,
  ftruncate,
  futimens,
  lchownat,
  linkat,
  lseek,
  lstatat,
  mkdirat,
  mknodat,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  O_WRONLY,
  openat,
  readlinkat,
  S_IFMT,
  SEEK_DATA,
  SEEK_HOLE,
  type Stat,
  symlinkat,
  utimensat,
} from '../linux/inode.ts';
import { EBADF, EINVAL, EIO, ENOENT, ENOSYS, ENXIO, EOPNOTSUPP, EPERM, EXDEV, located } from '../linux/libc.ts';
import { fsetxattr } from '../linux/xattr.ts';
import { Descent } from './descent.ts';
import { Root } from './rooted.ts';
import { inodeKey, isDirectory, typeOf } from './stat.ts';
import { readSome, writeAll } from './transfer.ts';
import { type EntryPath, everyXattr, keepXattr, replaceXattrs, viaProc, xattrsOf, xattrsOfFd } from './xattrs.ts';

// copy_file_range(2), and EIO from fuse servers that lack it: then reading and writing says what is really wrong.
const NO_RANGE = [EXDEV, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, EBADF, EIO] as const;
const SEEK_SET = 0;
const BUFFER_BYTES = 256 * 1024;
/** A disk writes so much in less than a second: who gives up does not wait longer. */
const RANGE_BYTES = 0x400_0000;

export interface CopyReport {
  /** Sockets, which are left out: only the process that bound one can make it. */
  readonly sockets: readonly ByteString[];
}

/**
 * Copies all below `fromDir`, and the directory's own metadata, into `toDir`, which exists and is empty: contents
 * (shared blocks where the filesystem can), holes, hard links, modes, owners, ns times, all extended attributes,
 * devices. `check` is called between entries, and between pieces of them; what it throws ends it. On failure a part is
 * left for the caller to remove.
 */
export function copyTree(fromDir: ByteString, toDir: ByteString, check: () => void = () => {}): CopyReport {
  using from = Descent.open(fromDir);
  using to = Descent.open(toDir);
  using toRoot = Root.open(toDir);
  if (to.names().length > 0) {
    throw new StorageError('failed-precondition', `Cannot copy into ${quote(toDir)}: it is not empty`, { path: toDir });
  }
  // An inherited default ACL would shape everything that is made below.
  replaceXattrs(viaProc(to.fd, '.' as ByteString), new Map(), everyAcl);
  const sockets: ByteString[] = [];
  try {
    copyBelow(from, to, toRoot, sockets, check);
  } catch (error) {
    throw located(error, joinBytes(fromDir, from.pathOf(error).slice(1) as ByteString));
  }
  return { sockets };
}

function copyBelow(from: Descent, to: Descent, toRoot: Root, sockets: ByteString[], check: () => void): void {
  const copier = new FileCopier(check);
  const linked = new Map<string, ByteString>();
  const stack = [{ path: '', names: from.names(), next: 0, stat: fstat(from.fd) }];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const name = level.names[level.next++];
    if (name === undefined) {
      finishDirectory(from.fd, to.fd, level.stat, everyXattr);
      stack.pop();
      if (stack.length > 0) {
        from.leave();
        to.leave();
      }
      continue;
    }
    const stat = lstatat(from.fd, name, ENOENT);
    if (stat === undefined) continue;
    check();
    const path = `${level.path}/${name}` as ByteString;
    if (isDirectory(stat)) {
      mkdirat(to.fd, name, 0o700);
      from.enter(name);
      to.enter(name);
      stack.push({ path, names: from.names(), next: 0, stat });
    } else if (typeOf(stat.mode) === 'socket') {
      sockets.push(path);
    } else {
      const key = stat.nlink > 1 ? inodeKey(stat) : undefined;
      const first = key === undefined ? undefined : linked.get(key);
      if (first !== undefined) {
        const { dir, name: firstName } = toRoot.parent(first);
        linkat(dir, firstName, to.fd, name);
        close(dir);
        continue;
      }
      copier.copy(from.fd, name, stat, to.fd, name, { keep: everyXattr, entryPath: viaProc });
      if (key !== undefined) linked.set(key, path);
    }
  }
}

function everyAcl(name: ByteString): boolean {
  return name.startsWith('system.posix_acl_');
}

export interface CopyOptions {
  /** Which attributes to take along. Default: those of a layer (`keepXattr`). */
  readonly keep?: (name: ByteString) => boolean;
  /** How this thread reaches entries for attribute calls. Default: through /proc. */
  readonly entryPath?: EntryPath;
  /** Called between pieces of a content; what it throws ends the copy. */
  readonly check?: () => void;
}

/** Copies one inode that is no directory (and no socket: `unsupported`) to a name that is free. A copy-up. */
export function copyEntry(
  fromDirFd: number,
  name: ByteString,
  toDirFd: number,
  toName: ByteString,
  options: CopyOptions = {},
): void {
  const { keep = keepXattr, entryPath = viaProc, check } = options;
  const stat = lstatat(fromDirFd, name) as Stat;
  new FileCopier(check).copy(fromDirFd, name, stat, toDirFd, toName, { keep, entryPath });
  // A new file has inherited its directory's default ACL. For symlinks there is none; for the rest it is by path.
  if (typeOf(stat.mode) === 'symlink') return;
  const wanted = xattrsOf(entryPath(fromDirFd, name), keep);
  replaceXattrs(entryPath(toDirFd, toName), wanted, keep);
  fchmodat(toDirFd, toName, stat.mode & 0o7777);
}

/** Gives the directory `toFd` the mode, owner, attributes (those that `keep` accepts) and times of `fromFd`; both readable. */
export function copyMetadata(
  fromFd: number,
  toFd: number,
  keep: (name: ByteString) => boolean = keepXattr,
  entryPath: EntryPath = viaProc,
): void {
  const inherited = xattrsOfFd(fromFd, keep);
  replaceXattrs(entryPath(toFd, '.' as ByteString), inherited, keep);
  finishDirectory(fromFd, toFd, fstat(fromFd), keep);
}

function finishDirectory(fromFd: number, toFd: number, stat: Stat, keep: (name: ByteString) => boolean): void {
  lchownat(toFd, '.' as ByteString, stat.uid, stat.gid);
  fchmod(toFd, stat.mode & 0o7777);
  for (const [key, value] of xattrsOfFd(fromFd, keep)) fsetxattr(toFd, key, value);
  futimens(toFd, stat.atimeNs, stat.mtimeNs);
}

/** Copies inodes; remembers what the filesystem cannot do, so that it is not tried for every file. */
class FileCopier {
  #clones = true;
  #ranges = true;
  #buffer: Buffer | undefined;
  readonly #check: () => void;

  /** `check` is called between pieces of a content; what it throws ends the copy. */
  constructor(check: () => void = () => {}) {
    this.#check = check;
  }

  copy(
    fromDir: number,
    name: ByteString,
    stat: Stat,
    toDir: number,
    toName: ByteString,
    options: Required<Omit<CopyOptions, 'check'>>,
  ): void {
    try {
      this.#copy(fromDir, name, stat, toDir, toName, options);
    } catch (error) {
      throw located(error, name);
    }
  }

  #copy(
    fromDir: number,
    name: ByteString,
    stat: Stat,
    toDir: number,
    toName: ByteString,
    options: Required<Omit<CopyOptions, 'check'>>,
  ): void {
    const type = typeOf(stat.mode);
    if (type === 'file') {
      this.#file(fromDir, name, stat, toDir, toName, options.keep);
      return;
    }
    if (type === 'symlink') {
      symlinkat(readlinkat(fromDir, name) as ByteString, toDir, toName);
    } else if (type === 'socket' || type === 'directory') {
      throw new StorageError('unsupported', `Cannot copy ${quote(name)}: it is a ${type}`, { path: name });
    } else {
      mknodat(toDir, toName, (stat.mode & S_IFMT) | 0o600, stat.rdevMajor, stat.rdevMinor);
    }
    lchownat(toDir, toName, stat.uid, stat.gid);
    if (type !== 'symlink') fchmodat(toDir, toName, stat.mode & 0o7777);
    const xattrs = xattrsOf(options.entryPath(fromDir, name), options.keep);
    if (xattrs.size > 0) replaceXattrs(options.entryPath(toDir, toName), xattrs, nothing);
    utimensat(toDir, toName, stat.atimeNs, stat.mtimeNs);
  }

  #file(
    fromDir: number,
    name: ByteString,
    stat: Stat,
    toDir: number,
    toName: ByteString,
    keep: (name: ByteString) => boolean,
  ): void {
    const from = openat(fromDir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    try {
      const to = openat(toDir, toName, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
      try {
        if (stat.sizeBytes > 0) this.#content(from, to, stat, toName);
        // chown clears set-id bits and capabilities, so mode and attributes come after it.
        lchownat(toDir, toName, stat.uid, stat.gid);
        fchmod(to, stat.mode & 0o7777);
        for (const [key, value] of xattrsOfFd(from, keep)) fsetxattr(to, key, value);
        futimens(to, stat.atimeNs, stat.mtimeNs);
      } finally {
        close(to);
      }
    } finally {
      close(from);
    }
  }

  #content(from: number, to: number, stat: Stat, name: ByteString): void {
    if (this.#clones) {
      if (ficlone(from, to)) return;
      this.#clones = false; // why does not matter: what is really wrong, the copy says
    }
    if (stat.blocks * 512 >= stat.sizeBytes) {
      this.#run(from, to, Number.POSITIVE_INFINITY, name);
      return;
    }
    for (let at = 0; ; ) {
      const start = lseek(from, at, SEEK_DATA, ENXIO); // ENXIO: nothing but a hole is left
      if (start < 0) break;
      at = lseek(from, start, SEEK_HOLE);
      lseek(from, start, SEEK_SET);
      lseek(to, start, SEEK_SET);
      this.#run(from, to, at - start, name);
    }
    ftruncate(to, fstat(from).sizeBytes);
  }

  /** Copies `lengthBytes`, or up to the end, between the descriptors' offsets. */
  #run(from: number, to: number, lengthBytes: number, name: ByteString): void {
    let left = lengthBytes;
    while (left > 0 && this.#ranges) {
      this.#check();
      const copied = copyFileRange(from, to, Math.min(left, RANGE_BYTES), ...NO_RANGE);
      // 0 also from filesystems that only pretend (copy_file_range(2), BUGS): reading settles it.
      if (copied <= 0) {
        if (copied < 0) this.#ranges = false;
        break;
      }
      left -= copied;
    }
    this.#buffer ??= Buffer.allocUnsafeSlow(BUFFER_BYTES);
    while (left > 0) {
      this.#check();
      const read = readSome(from, this.#buffer, 0, Math.min(left, BUFFER_BYTES), name);
      if (read === 0) return;
      writeAll(to, this.#buffer.subarray(0, read), name);
      left -= read;
    }
  }
}

function nothing(_name: ByteString): boolean {
  return false;
}
