import type { ByteString } from '../base/bytes.ts';
import { AT_FDCWD, AT_REMOVEDIR, lstatat, unlinkat } from '../linux/inode.ts';
import { EBUSY, EEXIST, ENOENT, ENOTEMPTY } from '../linux/libc.ts';
import { type MountEntry, readMountInfo } from '../linux/mountinfo.ts';

/** The topmost mount on `target`, or undefined. Most often there is no such directory, and mountinfo is not read. */
export function mountOn(target: ByteString): MountEntry | undefined {
  const stat = lstatat(AT_FDCWD, target, ENOENT);
  if (stat === undefined) return undefined;
  const parent = lstatat(AT_FDCWD, target.slice(0, target.lastIndexOf('/')) as ByteString, ENOENT);
  if (stat.mountId !== 0 && stat.mountId === parent?.mountId) return undefined;
  return readMountInfo().findLast(({ mountPoint }) => mountPoint === target);
}

/** One filesystem at one place, also where propagation has carried it into another namespace. */
export function sameMount(a: MountEntry | undefined, b: MountEntry | undefined): boolean {
  return a !== undefined && b !== undefined && a.device === b.device && a.root === b.root;
}

/** The first option says it, of the mount and of the filesystem: an overlay without upper is a read-only filesystem. */
export function isWritable(entry: MountEntry): boolean {
  return !entry.options.startsWith('ro') && !entry.superOptions.startsWith('ro');
}

/** Removes the empty directory that a mount was on. */
export function removeMountPoint(target: ByteString): void {
  // EBUSY, ENOTEMPTY: somebody has mounted or written there since; it is theirs.
  unlinkat(AT_FDCWD, target, AT_REMOVEDIR, ENOENT, EBUSY, ENOTEMPTY, EEXIST);
}
