import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** Processes that removals of the store at `root` left behind, which delete its removed trees. */
export function deletersOf(root: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      const words = commandOf(pid);
      return words.includes('--removed') && words.includes(root);
    });
}

function commandOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return []; // it ended meanwhile
  }
}

/** Waits until there is none. */
export async function deletersEnd(root: string): Promise<void> {
  for (const began = performance.now(); deletersOf(root).length > 0; await sleep(10)) {
    if (performance.now() - began > 20_000) throw new Error(`processes still delete for ${root}: ${deletersOf(root)}`);
  }
}
