import type { ByteString } from '../base/bytes.ts';
import type { Descent } from '../fs/descent.ts';
import { isDirectory, isWhiteout } from '../fs/stat.ts';
import { lstatat, type Stat } from '../linux/inode.ts';
import { ELOOP, ENOENT, ENOTDIR } from '../linux/libc.ts';

/** A directory on the way of a walk, as far as the base is concerned. */
export interface LevelBelow {
  readonly inBase: boolean;
  /** Present where it is implied: nobody looked whether the base has a directory there. */
  readonly implied?: number;
  /** Of one that is implied: whether it has; undefined until something is found in it. */
  isBelow?: boolean | undefined;
}

/**
 * What the base has under a name in the last directory of `stack`, which `base` is in. A symlink may lead to it where
 * directories are implied, in an upper that was marked by hand: then it has nothing there.
 */
export function statBelow(base: Descent, stack: readonly LevelBelow[], name: ByteString): Stat | undefined {
  const level = stack.at(-1);
  if (level?.inBase !== true || level.isBelow === false) return undefined;
  const before = present(base, name, ENOTDIR, ELOOP);
  return before === undefined || level.implied === undefined || areBelow(base.reach(name), stack) ? before : undefined;
}

/** Whether all of them that are implied are directories of the base; `path` leads through those that are not open. */
function areBelow({ fd, path }: ReturnType<Descent['reach']>, stack: readonly LevelBelow[]): boolean {
  const unknown: { readonly level: LevelBelow; readonly way: ByteString }[] = [];
  let way = path;
  for (let i = stack.length - 1; i >= 0; i--) {
    const level = stack[i] as LevelBelow;
    if (level.implied === undefined || level.isBelow === true) break;
    way = way.slice(0, Math.max(0, way.lastIndexOf('/'))) as ByteString;
    unknown.push({ level, way });
  }
  // From above: no symlink is on the way to the next.
  for (const { level, way } of unknown.reverse()) {
    const stat = way === '' ? undefined : lstatat(fd, way, ENOENT, ENOTDIR, ELOOP);
    level.isBelow = way === '' || (stat !== undefined && isDirectory(stat)); // none that is open is a symlink
    if (!level.isBelow) return false;
  }
  return true;
}

/** What a name shows; undefined for nothing, and for a whiteout that a plain layer directory shows as a device. */
export function present(at: Descent, name: ByteString, ...tolerated: number[]): Stat | undefined {
  const stat = at.stat(name, ENOENT, ...tolerated);
  return stat === undefined ? undefined : unlessWhiteout(stat);
}

export function unlessWhiteout(stat: Stat): Stat | undefined {
  return isWhiteout(stat) ? undefined : stat;
}
