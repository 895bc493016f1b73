import { type ByteString, joinBytes, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  close,
  type DirectoryEntry,
  DT_DIR,
  fchmod,
  fchmodat,
  fstat,
  lstatat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  openat,
  readDirectory,
  type Stat,
  unlinkat,
} from '../linux/inode.ts';
import { EACCES, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EPERM, located } from '../linux/libc.ts';
import { Descent } from './descent.ts';
import { isDirectory } from './stat.ts';

/** How often a directory that somebody else fills is emptied again before that is an error. */
const ROUNDS_MAX = 3;

interface Level {
  readonly name: ByteString;
  entries: DirectoryEntry[];
  rounds: number;
}

/**
 * Removes `name` in the directory `dirFd` with all below it; absent is success. Never follows a symlink, never enters
 * a mount (that is `busy`, and what was removed before it stays removed), no depth is too deep, and a directory without
 * permission bits that belongs to the caller is no obstacle. `check` is called between entries; what it throws ends it.
 */
export function removeTree(dirFd: number, name: ByteString, check: () => void = () => {}): void {
  const stat = lstatat(dirFd, name, ENOENT);
  if (stat === undefined) return;
  if (!isDirectory(stat)) {
    unlinkat(dirFd, name, 0, ENOENT);
    return;
  }
  refuseMount(stat, fstat(dirFd), name);
  removeBelow(dirFd, name, stat, check);
  unlinkat(dirFd, name, AT_REMOVEDIR, ENOENT);
}

function removeBelow(dirFd: number, top: ByteString, home: Stat, check: () => void): void {
  const fd = openUnlocked(dirFd, top);
  if (fd === undefined) return;
  using at = new Descent(fd);
  refuseMount(fstat(fd), home, top);
  try {
    empty(at, top, home, check);
  } catch (error) {
    throw located(error, joinBytes(top, at.pathOf(error).slice(1) as ByteString));
  }
}

function empty(at: Descent, top: ByteString, home: Stat, check: () => void): void {
  const { fd } = at;
  const stack: Level[] = [{ name: top, entries: readDirectory(fd, top), rounds: 0 }];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    check();
    const entry = level.entries.pop();
    if (entry !== undefined) {
      if (entry.type !== DT_DIR && unlink(at.fd, entry.name)) continue;
      if (!enter(at, entry.name)) continue;
      refuseMount(fstat(at.fd), home, joinBytes(top, at.path.slice(1) as ByteString));
      stack.push({ name: entry.name, entries: readDirectory(at.fd, entry.name), rounds: 0 });
      continue;
    }
    if (stack.length === 1) return;
    at.leave();
    const left = unlinkat(at.fd, level.name, AT_REMOVEDIR, ENOENT, ENOTEMPTY, EACCES);
    if (left === -EACCES) {
      fchmod(at.fd, 0o700);
      unlinkat(at.fd, level.name, AT_REMOVEDIR, ENOENT);
    } else if (left === -ENOTEMPTY) {
      if (++level.rounds === ROUNDS_MAX) unlinkat(at.fd, level.name, AT_REMOVEDIR, ENOENT);
      if (enter(at, level.name)) {
        level.entries = readDirectory(at.fd, level.name);
        continue;
      }
    }
    stack.pop();
  }
}

/** False when it is a directory. */
function unlink(dirFd: number, name: ByteString): boolean {
  const result = unlinkat(dirFd, name, 0, ENOENT, EISDIR, EACCES, EPERM);
  if (result === 0 || result === -ENOENT) return true;
  if (result === -EISDIR) return false;
  const stat = lstatat(dirFd, name, ENOENT);
  if (stat !== undefined && isDirectory(stat)) return false; // EPERM is what POSIX allows for a directory
  if (result === -EACCES) fchmod(dirFd, 0o700);
  unlinkat(dirFd, name, 0, ENOENT);
  return true;
}

/** False when there is nothing, or no directory any more: that was then removed. */
function enter(at: Descent, name: ByteString): boolean {
  let result = at.enter(name, EACCES, ENOENT, ENOTDIR);
  if (result === -EACCES) {
    const fd = openUnlocked(at.fd, name);
    if (fd === undefined) return false;
    close(fd);
    result = at.enter(name, ENOENT, ENOTDIR);
  }
  if (result === -ENOTDIR) unlinkat(at.fd, name, 0, ENOENT);
  return result === 0;
}

/** Opens a directory for reading, where need be after giving its owner the permission. */
function openUnlocked(dirFd: number, name: ByteString): number | undefined {
  const flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
  let fd = openat(dirFd, name, flags, 0, EACCES, ENOENT);
  if (fd === -EACCES) {
    const place = openat(dirFd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, ENOENT);
    if (place < 0) return undefined;
    try {
      // The descriptor names the very directory, whatever was put in its place meanwhile.
      fchmodat(AT_FDCWD, `/proc/thread-self/fd/${place}` as ByteString, 0o700);
    } finally {
      close(place);
    }
    fd = openat(dirFd, name, flags, 0, ENOENT);
  }
  return fd < 0 ? undefined : fd;
}

function refuseMount(stat: Stat, home: Stat, name: ByteString): void {
  if (stat.dev === home.dev && stat.mountId === home.mountId) return;
  throw new StorageError(
    'busy',
    `Cannot remove directory ${quote(name)}: something is mounted there; unmount it first`,
    {
      path: name,
      errno: 'EXDEV',
    },
  );
}
