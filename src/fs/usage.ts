import type { ByteString } from '../base/bytes.ts';
import { inodeKey, isDirectory, isWhiteout } from './stat.ts';
import { walkTree } from './walk.ts';

/**
 * Sum of the lengths of all non-directories below `root`, hard links once; whiteouts count 0 (driver-behaviour D9c).
 * `check` is called at every entry; what it throws ends the walk.
 */
export function treeSizeBytes(root: ByteString, check: () => void = () => {}): number {
  const linked = new Set<string>();
  let sum = 0;
  for (const { stat } of walkTree(root)) {
    check();
    if (isDirectory(stat) || isWhiteout(stat)) continue;
    if (stat.nlink > 1) {
      const key = inodeKey(stat);
      if (linked.has(key)) continue;
      linked.add(key);
    }
    sum += stat.sizeBytes;
  }
  return sum;
}
