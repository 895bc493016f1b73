import type { ByteString } from '../base/bytes.ts';
import { Descent } from '../fs/descent.ts';
import { fstat, futimens, O_DIRECTORY, O_RDONLY, openat } from '../linux/inode.ts';
import { fsetxattr } from '../linux/xattr.ts';
import type { LayerDirectory, LayerTree } from './layer-tree.ts';
import type { Notes } from './notes.ts';

const DEFAULT_ACL = 'system.posix_acl_default' as ByteString;
const HERE = '.' as ByteString;

/**
 * Gives every directory of a tree whose entries are all in its default ACL and its time, but for those that need
 * something from the layers below: these, and what leads to them, stay in the table, the others go out of it.
 */
export function finishDirectories(tree: LayerTree, notes: Notes): void {
  using at = new Descent(openat(tree.root.fd, HERE, O_RDONLY | O_DIRECTORY));
  const visit = (directory: LayerDirectory): { directory: LayerDirectory; children: Iterator<LayerDirectory> } => ({
    directory,
    children: (directory.children ?? new Map<ByteString, LayerDirectory>()).values(),
  });
  const stack = [visit(tree.root.directory)];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const child = level.children.next().value;
    if (child !== undefined) {
      at.enter(child.name);
      stack.push(visit(child));
      continue;
    }
    const { directory } = level;
    if (!needsBelow(directory)) {
      touch(at.fd, directory, notes);
      directory.settled = true;
      if ((directory.children?.size ?? 0) === 0) directory.parent?.children?.delete(directory.name);
    }
    stack.pop();
    if (stack.length > 0) at.leave();
  }
}

function needsBelow({ implied, opaque, reborn, whiteouts, retouched }: LayerDirectory): boolean {
  return implied || opaque || reborn || whiteouts || retouched;
}

/** What is done to a directory last of all. */
export function touch(fd: number, directory: LayerDirectory, notes: Notes): void {
  const { defaultAcl, mtimeNs, name } = directory;
  if (defaultAcl !== undefined) fsetxattr(fd, DEFAULT_ACL, defaultAcl);
  futimens(fd, mtimeNs, mtimeNs);
  if (mtimeNs !== undefined && isUnusualTime(mtimeNs)) noteTime(notes, fstat(fd).mtimeNs, mtimeNs, name);
}

/** Beyond 1970 to 2038: what some filesystems cannot hold. */
export function isUnusualTime(ns: bigint): boolean {
  return ns < 0n || ns > 0x7fff_ffffn * 1_000_000_000n;
}

/** Reports a time that the filesystem made another of. */
export function noteTime(notes: Notes, actual: bigint, wanted: bigint, name: ByteString): void {
  if (actual !== wanted) notes.add('modification time beyond what the filesystem holds', name);
}
