import { type ByteString, joinBytes } from '../base/bytes.ts';
import { copyEntry, copyMetadata } from '../fs/copy.ts';
import { Descent } from '../fs/descent.ts';
import { removeTree } from '../fs/remove.ts';
import { Root } from '../fs/rooted.ts';
import { inodeKey, isDirectory } from '../fs/stat.ts';
import { type MarkStyle, type Marks, marksOf } from '../fs/whiteouts.ts';
import { close, fstat, futimens, linkat, lstatat, mkdirat, renameat, type Stat } from '../linux/inode.ts';
import { ENOENT, EXDEV, located } from '../linux/libc.ts';

/**
 * Turns a tree that shows what lies below `staged` into one that shows both, as an overlay of the two would: what
 * `staged` (a layer whose deletions are spelt in `style`) deletes is removed from `target`, what it has is moved there. So a layer gives
 * the same tree whether it is stacked or merged. `staged` is left in pieces. `target` may be another filesystem, a
 * mounted overlay say: then files are copied, linked ones once. `check` is called between entries, and between pieces of
 * copied ones; what it throws ends it in the middle.
 */
export function mergeLayer(
  staged: ByteString,
  target: ByteString,
  style: MarkStyle,
  check: () => void = () => {},
): void {
  using from = Descent.open(staged);
  using to = Descent.open(target);
  using targetRoot = Root.open(target);
  try {
    merge(from, to, targetRoot, marksOf(style), check);
  } catch (error) {
    throw located(error, from.pathOf(error));
  }
}

function merge(from: Descent, to: Descent, targetRoot: Root, marks: Marks, check: () => void): void {
  /** Where the first name of a linked file went that could not be moved. */
  const copied = new Map<string, ByteString>();
  const stack = [{ names: from.names(), next: 0, stat: fstat(from.fd) }];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    check();
    const name = level.names[level.next++];
    if (name === undefined) {
      copyMetadata(from.fd, to.fd);
      futimens(to.fd, level.stat.atimeNs, level.stat.mtimeNs); // as it was before its entries were moved out
      stack.pop();
      if (stack.length === 0) return;
      from.leave();
      to.leave();
      continue;
    }
    const stat = lstatat(from.fd, name) as Stat;
    const there = lstatat(to.fd, name, ENOENT);
    if (marks.isWhiteout(stat)) {
      removeTree(to.fd, name);
    } else if (isDirectory(stat)) {
      from.enter(name);
      const fresh = there === undefined || !isDirectory(there) || marks.isOpaque(from.fd);
      if (fresh) {
        removeTree(to.fd, name);
        mkdirat(to.fd, name, 0o700);
      }
      to.enter(name);
      stack.push({ names: from.names(), next: 0, stat });
    } else {
      if (there !== undefined) removeTree(to.fd, name);
      if (renameat(from.fd, name, to.fd, name, EXDEV) === 0) continue;
      const key = stat.nlink > 1 ? inodeKey(stat) : undefined;
      const first = key === undefined ? undefined : copied.get(key);
      if (first === undefined) {
        copyEntry(from.fd, name, to.fd, name, { check });
        if (key !== undefined) copied.set(key, joinBytes(to.path, name));
        continue;
      }
      const { dir, name: firstName } = targetRoot.parent(first);
      linkat(dir, firstName, to.fd, name);
      close(dir);
    }
  }
}
