import { EAGAIN, judge, libc } from './libc.ts';

/** Writes back everything of the filesystem that `fd` lies on. */
export function syncfs(fd: number): void {
  judge(libc.syncfs(fd), 'sync the filesystem of', `descriptor ${fd}`, []);
}

export function fsync(fd: number): void {
  judge(libc.fsync(fd), 'sync', `descriptor ${fd}`, []);
}

export const LOCK_SH = 1;
export const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_UN = 8;

/** flock(2) without waiting: true when the lock is ours now. It lasts until the descriptor's last copy is closed. */
export function tryFlock(fd: number, kind: typeof LOCK_SH | typeof LOCK_EX): boolean {
  return judge(libc.flock(fd, kind | LOCK_NB), 'lock', `descriptor ${fd}`, [EAGAIN]) === 0;
}

export function unlockFlock(fd: number): void {
  judge(libc.flock(fd, LOCK_UN), 'unlock', `descriptor ${fd}`, []);
}
