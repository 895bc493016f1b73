import type { ByteString } from '../base/bytes.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_RDONLY, openat } from './inode.ts';
import { beside, EAGAIN, EIO, judge, libc, systemError } from './libc.ts';

/** Writes back everything of the filesystem that `fd` lies on; `path` is what errors name. */
export function syncfs(fd: number, path: ByteString): void {
  judge(libc.syncfs(fd), 'sync the filesystem of', path, []);
}

/** As `syncfs`, in another thread. */
export async function syncfsBeside(fd: number, path: ByteString): Promise<void> {
  if ((await beside('int syncfs(int)', fd)) === 0) return;
  // Nobody knows the errno of that thread: a failure that lasts says it again, one that was told is told no more.
  syncfs(fd, path);
  throw systemError('sync the filesystem of', EIO, path);
}

/**
 * Writes the filesystem of the directory `path` back, in another thread. What fails must not be lost: of metadata without
 * a journal the kernel tells it to the first who syncs, and to nobody else (since Linux 6.6; fs/buffer.c).
 */
export async function writeBackBeside(path: ByteString): Promise<void> {
  using at = new Witness(path);
  await syncfsBeside(at.fd, path);
}

/**
 * Sees whatever its filesystem cannot write back from when it was opened. The kernel tells a failure once to each open
 * descriptor, and to one that is opened later only where nobody else was told before (syncfs(2), lib/errseq.c): who
 * opens only to sync may hear nothing of his own data.
 */
export class Witness implements Disposable {
  readonly path: ByteString;
  readonly fd: number;

  /** `path`: a directory. */
  constructor(path: ByteString) {
    this.path = path;
    this.fd = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  }

  [Symbol.dispose](): void {
    close(this.fd);
  }
}

export function fsync(fd: number): void {
  judge(libc.fsync(fd), 'sync', fd, []);
}

export const LOCK_SH = 1;
export const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;

/** flock(2) without waiting: true when the lock is ours now. It lasts until the descriptor's last copy is closed. */
export function tryFlock(fd: number, kind: typeof LOCK_SH | typeof LOCK_EX): boolean {
  return judge(libc.flock(fd, kind | LOCK_NB), 'lock', fd, [EAGAIN]) === 0;
}

export function unlockFlock(fd: number): void {
  judge(libc.flock(fd, LOCK_UN), 'unlock', fd, []);
}
