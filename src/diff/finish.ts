import type { ByteString } from '../base/bytes.ts';
import { Descent } from '../fs/descent.ts';
import { ACL_DEFAULT } from '../fs/xattrs.ts';
import { fstat, futimens, lstatat, O_DIRECTORY, O_RDONLY, openat, utimensat } from '../linux/inode.ts';
import { fsetxattr } from '../linux/xattr.ts';
import { type Directories, type DirectoryRow, Mark, ROOT_ROW } from './directories.ts';
import type { LayerTree } from './layer-tree.ts';
import type { Notes } from './notes.ts';

const HERE = '.' as ByteString;

/**
 * Gives every directory of a tree whose entries are all in its default ACL and its time, but for those that need
 * something from the layers below: these, and what leads to them, stay in the table, the others go out of it.
 */
export function finishDirectories(tree: LayerTree, notes: Notes, check: () => void): void {
  const { directories } = tree;
  using at = new Descent(openat(tree.root.fd, HERE, O_RDONLY | O_DIRECTORY));
  // Down to the first leaf, and from each directory to its next sibling's first leaf or up: no list of the way is kept.
  let row: DirectoryRow = ROOT_ROW;
  let next = directories.firstChild(ROOT_ROW);
  for (;;) {
    check();
    if (next !== undefined) {
      at.enterLater(directories.name(next));
      row = next;
      next = directories.firstChild(row);
      continue;
    }
    const [parent, sibling] = [directories.parent(row), directories.nextSibling(row)];
    const settles = !directories.has(row, NEEDS_BELOW);
    const isLate = parent !== undefined && directories.defaultAcl(row) === undefined;
    if (settles && !isLate) touch(at.fd, directories, row, notes);
    if (parent !== undefined) at.leave();
    if (settles && isLate) touchBelow(at.reach(directories.name(row)), directories, row, notes);
    if (settles) {
      directories.mark(row, Mark.settled);
      if (row !== ROOT_ROW && directories.firstChild(row) === undefined) directories.remove(row);
    }
    if (parent === undefined) break;
    row = parent;
    next = sibling;
  }
}

const NEEDS_BELOW = Mark.implied | Mark.opaque | Mark.reborn | Mark.whiteouts | Mark.retouched;

/** As `touch` of a directory without a default ACL, which is not opened for it. */
function touchBelow(
  { fd, path }: { readonly fd: number; readonly path: ByteString },
  directories: Directories,
  row: DirectoryRow,
  notes: Notes,
): void {
  const mtimeNs = directories.mtimeNs(row);
  utimensat(fd, path, mtimeNs, mtimeNs);
  if (mtimeNs !== undefined && isUnusualTime(mtimeNs))
    noteTime(notes, lstatat(fd, path)?.mtimeNs ?? 0n, mtimeNs, directories.name(row));
}

/** What is done to a directory last of all. */
export function touch(fd: number, directories: Directories, row: DirectoryRow, notes: Notes): void {
  const defaultAcl = directories.defaultAcl(row);
  const mtimeNs = directories.mtimeNs(row);
  if (defaultAcl !== undefined) fsetxattr(fd, ACL_DEFAULT, defaultAcl);
  futimens(fd, mtimeNs, mtimeNs);
  if (mtimeNs !== undefined && isUnusualTime(mtimeNs))
    noteTime(notes, fstat(fd).mtimeNs, mtimeNs, directories.name(row));
}

/** Beyond 1970 to 2038: what some filesystems cannot hold. */
export function isUnusualTime(ns: bigint): boolean {
  return ns < 0n || ns > 0x7fff_ffffn * 1_000_000_000n;
}

/** Reports a time that the filesystem made another of. */
export function noteTime(notes: Notes, actual: bigint, wanted: bigint, name: ByteString): void {
  if (actual !== wanted) notes.add('modification time beyond what the filesystem holds', name);
}
