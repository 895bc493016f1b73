import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK, type Stat } from '../linux/inode.ts';
import type { TarEntryType } from '../tar/types.ts';

/** The type of an inode, in the words of tar entries; a socket has none there. */
export type InodeType = Exclude<TarEntryType, 'hardlink' | 'skipped'> | 'socket';

const TYPES: Readonly<Record<number, InodeType>> = {
  [S_IFREG]: 'file',
  [S_IFDIR]: 'directory',
  [S_IFLNK]: 'symlink',
  [S_IFCHR]: 'character-device',
  [S_IFBLK]: 'block-device',
  [S_IFIFO]: 'fifo',
  [S_IFSOCK]: 'socket',
};

export function typeOf(mode: number): InodeType {
  return TYPES[mode & S_IFMT] as InodeType;
}

export function isDirectory(stat: Pick<Stat, 'mode'>): boolean {
  return (stat.mode & S_IFMT) === S_IFDIR;
}

export function isFile(stat: Pick<Stat, 'mode'>): boolean {
  return (stat.mode & S_IFMT) === S_IFREG;
}

export function isSocket(stat: Stat): boolean {
  return (stat.mode & S_IFMT) === S_IFSOCK;
}

/** A character device 0:0: what overlay leaves in an upper directory for a deleted name, whatever its mode and owner. */
export function isWhiteout(stat: Pick<Stat, 'mode' | 'rdevMajor' | 'rdevMinor'>): boolean {
  return (stat.mode & S_IFMT) === S_IFCHR && stat.rdevMajor === 0 && stat.rdevMinor === 0;
}

/** What its data take on disk: less than its size where it has holes, or where they lie elsewhere. */
export function allocatedBytes(stat: Pick<Stat, 'blocks'>): number {
  return stat.blocks * 512;
}

/** One filesystem's one inode. */
export function sameInode(a: Stat, b: Stat): boolean {
  return a.ino === b.ino && a.inoLow === b.inoLow && a.dev === b.dev;
}

/** Equal exactly for stats of one inode: a key for maps. */
export function inodeKey(stat: Stat): string {
  return `${stat.dev}:${stat.ino}:${stat.inoLow}`;
}
