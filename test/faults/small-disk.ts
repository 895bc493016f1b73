import { spawnSync } from 'node:child_process';
import { readFileSync, statfsSync } from 'node:fs';

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
