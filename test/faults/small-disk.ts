import { spawnSync } from 'node:child_process';
import { closeSync, fsyncSync, openSync, readFileSync, rmSync, statfsSync, writeSync } from 'node:fs';

/** Gives a tmpfs another size. */
export function resize(path: string, kib: number): void {
  const { status, stderr } = spawnSync('mount', ['-o', `remount,size=${kib}k`, path], { encoding: 'utf8' });
  if (status !== 0) throw new Error(stderr);
}

/** KiB that are used of the filesystem. */
export function usedKib(path: string): number {
  const { blocks, bfree, bsize } = statfsSync(path);
  return ((blocks - bfree) * bsize) / 1024;
}

/** Mount points below `path`. */
export function mountsBelow(path: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((point) => point.startsWith(`${path}/`));
}

/**
 * Fills a filesystem with a file until `leaveKib` are free, or as few as it gives away (xfs keeps some); the file grows
 * where it is there.
 */
export function fillBut(path: string, leaveKib: number): void {
  const { bsize } = statfsSync(path);
  const fd = openSync(fillerOf(path), 'a');
  try {
    for (let most = 16 << 20; most >= bsize; ) {
      const { bavail } = statfsSync(path);
      const missing = bavail * bsize - leaveKib * 1024;
      if (missing < bsize) return;
      try {
        writeSync(fd, Buffer.alloc(Math.min(missing, most), 1));
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
        most = Math.min(missing, most) >> 1;
      }
      fsyncSync(fd);
    }
  } finally {
    closeSync(fd);
  }
}

/** Takes what `fillBut` wrote away. */
export function unfill(path: string): void {
  rmSync(fillerOf(path), { force: true });
}

function fillerOf(path: string): string {
  return `${path}/filler`;
}
