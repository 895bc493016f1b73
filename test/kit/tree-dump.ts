import { createHash } from 'node:crypto';
import { closeSync, readSync } from 'node:fs';
import { type ByteString, fromText, quote } from '../../src/base/bytes.ts';
import { inodeKey, isDirectory, isFile, typeOf } from '../../src/fs/stat.ts';
import { walkTree } from '../../src/fs/walk.ts';
import { viaProc, xattrsOf } from '../../src/fs/xattrs.ts';
import { AT_FDCWD, lstatat, O_NOFOLLOW, O_RDONLY, openat, readlinkat, type Stat } from '../../src/linux/inode.ts';

/** One path of a tree. */
export interface TreeEntry {
  readonly path: ByteString;
  /** Type, mode, owner, device, size, mtime in ns, kept attributes, link target, digest of the content. */
  readonly looks: string;
  /** First name of its hard-link group; undefined for that itself. */
  readonly link: ByteString | undefined;
  /** How many names the inode says it has. */
  readonly names: number;
}

/**
 * One line for each path of the tree, the root first. Two trees that a layer cannot tell apart have equal dumps; sizes
 * and times of directories are left out where `directories` is `'loose'`.
 */
export function dumpTree(root: string, directories: 'exact' | 'loose' = 'exact'): string[] {
  return treeEntries(root, directories).map(
    ({ path, looks, link }) => `${quote(path)} ${looks}${link === undefined ? '' : ` link=${quote(link)}`}`,
  );
}

/** What `dumpTree` makes its lines of. */
export function treeEntries(root: string, directories: 'exact' | 'loose' = 'exact'): TreeEntry[] {
  const top = fromText(root);
  const groups = new Map<string, ByteString>();
  const stat = lstatat(AT_FDCWD, top) as Stat;
  // A root's times are nobody's business: they change with every entry, and no archive carries them alone.
  const entries = [
    { path: '/' as ByteString, looks: looksOf(AT_FDCWD, top, stat, 'loose'), link: undefined, names: stat.nlink },
  ] as TreeEntry[];
  for (const { path, dirFd, name, stat } of walkTree(top)) {
    let link: ByteString | undefined;
    if (stat.nlink > 1 && !isDirectory(stat)) {
      link = groups.get(inodeKey(stat));
      groups.set(inodeKey(stat), link ?? path);
    }
    entries.push({ path, looks: looksOf(dirFd, name, stat, directories), link, names: stat.nlink });
  }
  return entries;
}

function looksOf(dirFd: number, name: ByteString, stat: Stat, directories: 'exact' | 'loose'): string {
  const type = typeOf(stat.mode);
  const parts = [type as string, (stat.mode & 0o7777).toString(8), `${stat.uid}:${stat.gid}`];
  if (type.endsWith('device')) parts.push(`${stat.rdevMajor},${stat.rdevMinor}`);
  if (type !== 'directory') parts.push(`${stat.sizeBytes}`);
  if (type !== 'directory' || directories === 'exact') parts.push(`${stat.mtimeNs}`);
  const at = dirFd === AT_FDCWD ? name : viaProc(dirFd, name);
  for (const [key, value] of [...xattrsOf(at, isKept)].sort()) parts.push(`${quote(key)}=${value.toString('hex')}`);
  if (type === 'symlink') parts.push(`-> ${quote(readlinkat(dirFd, name) as ByteString)}`);
  if (isFile(stat)) parts.push(digest(openat(dirFd, name, O_RDONLY | O_NOFOLLOW)));
  return parts.join(' ');
}

/** Spelled out once more: what the code under test leaves out must not be left out here. */
function isKept(name: ByteString): boolean {
  return /^(?:user\.(?!overlay\.|fuseoverlayfs\.)|security\.capability$|system\.posix_acl_(?:access|default)$)/.test(
    name,
  );
}

function digest(fd: number): string {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(64 * 1024);
  try {
    for (let read = 1; read > 0; ) {
      read = readSync(fd, buffer, 0, buffer.length, null);
      hash.update(buffer.subarray(0, read));
    }
  } finally {
    closeSync(fd);
  }
  return hash.digest('hex').slice(0, 16);
}
