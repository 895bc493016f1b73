import type { ByteString } from '../base/bytes.ts';
import { lstatat, type Stat } from '../linux/inode.ts';
import { ENOENT } from '../linux/libc.ts';
import { Descent } from './descent.ts';
import { isDirectory } from './stat.ts';

/** One entry of a tree. `dirFd` is borrowed: it is open until the walk goes on. */
export interface Visit {
  /** From the walk's root: `/a/b`. */
  readonly path: ByteString;
  readonly dirFd: number;
  readonly name: ByteString;
  readonly stat: Stat;
}

/**
 * Every entry below `root`, depth first, names by bytes within a directory, a directory before its children; the root
 * itself never. Holds one sorted listing a level. What vanishes between listing and stat is left out: an overlay view
 * lists whiteouts of layers that were unpacked, not mounted, and has no such file (observed on 6.18).
 */
export function* walkTree(root: ByteString): Generator<Visit, void, undefined> {
  using at = Descent.open(root);
  const stack = [{ prefix: '', names: at.names(), next: 0 }];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const name = level.names[level.next++];
    if (name === undefined) {
      stack.pop();
      if (stack.length > 0) at.leave();
      continue;
    }
    const stat = lstatat(at.fd, name, ENOENT);
    if (stat === undefined) continue;
    const path = `${level.prefix}/${name}` as ByteString;
    yield { path, dirFd: at.fd, name, stat };
    if (isDirectory(stat) && at.enter(name, ENOENT) === 0) stack.push({ prefix: path, names: at.names(), next: 0 });
  }
}
