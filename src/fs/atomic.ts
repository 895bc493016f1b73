import type { ByteString } from '../base/bytes.ts';
import {
  AT_FDCWD,
  close,
  fchmod,
  fchmodat,
  lchownat,
  lstatat,
  mkdirat,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_NOFOLLOW,
  O_RDONLY,
  O_WRONLY,
  openat,
  renameat,
  S_IFDIR,
  unlinkat,
} from '../linux/inode.ts';
import { EEXIST, ENODATA, ENOENT, ENOTDIR } from '../linux/libc.ts';
import { randomBytes } from '../linux/random.ts';
import { fsync } from '../linux/sync.ts';
import { lgetxattr, lremovexattr } from '../linux/xattr.ts';
import { writeAll } from './transfer.ts';
import { ACL_DEFAULT } from './xattrs.ts';

/** Every temporary name in a directory of ours begins so; whoever opens the directory may sweep them. */
export const TEMPORARY_PREFIX = '.tmp-' as ByteString;

export function temporaryName(): ByteString {
  return `${TEMPORARY_PREFIX}${randomBytes(8).toString('hex')}` as ByteString;
}

export interface AtomicFile {
  /** Exact, whatever the umask. Default 0644. */
  readonly mode?: number;
  /** The file and its name are on disk when the call returns. Default: no. */
  readonly sync?: boolean;
}

/** Makes or replaces the file `name` in `dirFd` (readable if `sync`): a reader sees the old content or the new. */
export function writeFileAtomic(dirFd: number, name: ByteString, data: Uint8Array, options: AtomicFile = {}): void {
  const temporary = temporaryName();
  const fd = openat(dirFd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    try {
      writeAll(fd, data, name);
      fchmod(fd, options.mode ?? 0o644);
      if (options.sync === true) fsync(fd);
    } finally {
      close(fd);
    }
    renameat(dirFd, temporary, dirFd, name);
  } catch (error) {
    unlinkat(dirFd, temporary, 0, ENOENT);
    throw error;
  }
  if (options.sync === true) fsync(dirFd);
}

/** As `writeAll`, for a file of ours whose name nobody needs to know. */
export function writeFully(fd: number, data: Uint8Array): void {
  writeAll(fd, data, `descriptor ${fd}` as ByteString);
}

/**
 * The directory at `path` (no symlink), made if absent, with exactly this mode and owner. Parents must exist. What is
 * made in it gets no access list from it.
 */
export function ensureDirectory(path: ByteString, mode: number, uid: number, gid: number): void {
  const there = lstatat(AT_FDCWD, path, ENOENT, ENOTDIR);
  if (there !== undefined) dropDefaultAcl(path);
  // What is as it should be is not written again.
  if (there?.mode === (S_IFDIR | mode) && there.uid === uid && there.gid === gid) return;
  if (mkdirat(AT_FDCWD, path, mode & 0o700, EEXIST) === 0) dropDefaultAcl(path); // of the directory above
  const fd = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    lchownat(fd, '.' as ByteString, uid, gid);
    fchmod(fd, mode);
  } finally {
    close(fd);
  }
}

/** Removing one that is not there would be written down. */
function dropDefaultAcl(path: ByteString): void {
  if (lgetxattr(path, ACL_DEFAULT) !== undefined) lremovexattr(path, ACL_DEFAULT, ENODATA);
}

/** A new directory with exactly this mode and owner, where nobody else writes. */
export function makeDirectory(path: ByteString, mode: number, uid: number, gid: number): void {
  mkdirat(AT_FDCWD, path, mode & 0o700);
  lchownat(AT_FDCWD, path, uid, gid);
  fchmodat(AT_FDCWD, path, mode);
}

/** A new file with exactly this mode, where nobody reads yet or it is empty: else a reader may see a part of it. */
export function makeFile(path: ByteString, data: Uint8Array, mode: number, ...tolerated: number[]): void {
  const fd = openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode, ...tolerated);
  if (fd < 0) return;
  try {
    if (data.length > 0) writeAll(fd, data, path);
    fchmod(fd, mode); // whatever the umask
  } finally {
    close(fd);
  }
}
