import { mkdirSync, readSync, realpathSync } from 'node:fs';
import { type ByteString, fromBytes, quote, toBytes } from '../base/bytes.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import { type IdMaps, toHost } from '../base/id-map.ts';
import { ensureDirectory, temporaryName, writeFileAtomic } from '../fs/atomic.ts';
import { isDirectory, isFile } from '../fs/stat.ts';
import {
  AT_FDCWD,
  close,
  fstat,
  lstatat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  openat,
  readDirectory,
  renameat,
  unlinkat,
} from '../linux/inode.ts';
import { ELOOP, ENOENT, ENOTDIR } from '../linux/libc.ts';

// What the homes of all drivers have in common: the mark of our own, how files get into them, what is swept.

/** In homes that we made. Others' are never changed by opening and reading them. */
export const MARK = '.layerstore' as ByteString;
const SMALL_BYTES_MAX = 64 * 1024;

/** Owner and group of layer roots and of the home's group: root as the id maps give it, or the caller who is not root. */
export interface Owner {
  readonly uid: number;
  readonly gid: number;
}

export function rootPair(maps: IdMaps): Owner {
  const us = process.geteuid?.() ?? 0;
  if (us !== 0) return { uid: us, gid: process.getegid?.() ?? 0 };
  return { uid: toHost(0, maps.uid, 'user'), gid: toHost(0, maps.gid, 'group') };
}

/** The home's canonical path, its parent made if need be: mountinfo shows no other spelling. The home may be absent. */
export function canonicalHome(home: ByteString): ByteString {
  const slash = home.lastIndexOf('/');
  if (!home.startsWith('/') || slash === home.length - 1) {
    throw new StorageError(
      'invalid-argument',
      `Cannot open the driver home ${quote(home)}: it is not an absolute path`,
    );
  }
  const parent = toBytes((home.slice(0, slash) || '/') as ByteString);
  mkdirSync(parent, { recursive: true, mode: 0o710 });
  const real = fromBytes(realpathSync.native(parent, 'buffer'));
  return `${real === '/' ? '' : real}/${home.slice(slash + 1)}` as ByteString;
}

/** Whether a home is not there, or has nothing in it. One of ours has a mark, and may have thousands of layers. */
export function isFresh(home: ByteString): boolean {
  return !isOurs(home) && listNames(home).length === 0;
}

/** Makes the home, or gives it its mode and owner again; a fresh one is marked as ours. */
export function ensureHome(home: ByteString, owner: Owner): void {
  const fresh = isFresh(home);
  ensureDirectory(home, 0o710, process.geteuid?.() ?? 0, owner.gid);
  if (fresh) withDirectory(home, (fd) => writeFileAtomic(fd, MARK, Buffer.from('1\n')));
}

export function isOurs(home: ByteString): boolean {
  return lstatat(AT_FDCWD, `${home}/${MARK}` as ByteString, ENOENT, ENOTDIR) !== undefined;
}

/** The names in a directory; none where it is absent. */
export function listNames(directory: ByteString): ByteString[] {
  const fd = openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ENOENT);
  if (fd < 0) return [];
  try {
    return readDirectory(fd, directory).map(({ name }) => name);
  } catch (error) {
    if (isStorageError(error, 'not-found')) return []; // removed since it was opened
    throw error;
  } finally {
    close(fd);
  }
}

/** True for a directory, not for a symlink to one. */
export function isDirectoryAt(path: ByteString): boolean {
  const stat = lstatat(AT_FDCWD, path, ENOENT, ENOTDIR);
  return stat !== undefined && isDirectory(stat);
}

export function exists(path: ByteString): boolean {
  return lstatat(AT_FDCWD, path, ENOENT, ENOTDIR) !== undefined;
}

/**
 * Content of one of the home's own small files, or undefined where it is absent. What is no ordinary file of at most
 * 64 KiB was not written by a driver: `corrupt`.
 */
export function readSmall(path: ByteString): ByteString | undefined {
  const fd = openat(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, ENOENT, ENOTDIR, ELOOP);
  if (fd === -ENOENT || fd === -ENOTDIR) return undefined;
  if (fd === -ELOOP) throw tampered(path, 'it is a symbolic link');
  try {
    const stat = fstat(fd);
    if (!isFile(stat)) throw tampered(path, 'it is no ordinary file');
    if (stat.sizeBytes > SMALL_BYTES_MAX) throw tampered(path, `it has ${stat.sizeBytes} bytes`);
    const bytes = Buffer.allocUnsafe(stat.sizeBytes);
    return fromBytes(bytes.subarray(0, readSync(fd, bytes)));
  } finally {
    close(fd);
  }
}

export function tampered(path: ByteString, why: string): StorageError {
  return new StorageError('corrupt', `Cannot read ${quote(path)}: ${why}; it was not written by this driver`, { path });
}

/** Puts a small file at `path` (below `home`, another directory) in one step, with exactly this mode. */
export function placeSmall(home: ByteString, path: ByteString, text: string, mode: number): void {
  withDirectory(home, (fd) => {
    // The temporary name is in the home itself, where the sweep finds it.
    const temporary = temporaryName();
    writeFileAtomic(fd, temporary, Buffer.from(text, 'latin1'), { mode });
    try {
      renameat(fd, temporary, AT_FDCWD, path);
    } catch (error) {
      unlinkat(fd, temporary, 0, ENOENT);
      throw error;
    }
  });
}

export function withDirectory<T>(path: ByteString, task: (fd: number) => T): T {
  const fd = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    return task(fd);
  } finally {
    close(fd);
  }
}
