import type { ByteString } from '../base/bytes.ts';
import { cstring, judge, libc } from './libc.ts';

export const OVERLAYFS_SUPER_MAGIC = 0x794c7630;
export const FUSE_SUPER_MAGIC = 0x65735546;
export const AUFS_SUPER_MAGIC = 0x61756673;

// statfs(2) and include/uapi/linux/magic.h; the names are the ones Docker's drivers print.
// biome-ignore format: a table
const NAMES: Readonly<Record<number, string>> = {
  1635083891: 'aufs', 2435016766: 'btrfs', 684539205: 'cramfs', 61791: 'ecryptfs', 61267: 'extfs', 4076150800: 'f2fs', 1702057286: 'fuse',
  1196443219: 'gpfs', 827541066: 'jfs', 26985: 'nfs', 2035054128: 'overlayfs', 2240043254: 'ramfs', 1382369651: 'reiserfs', 4283649346: 'cifs',
  1936814952: 'squashfs', 16914836: 'tmpfs', 1448756819: 'vxfs', 1481003842: 'xfs', 801189825: 'zfs', 3393526350: 'bcachefs', 3774210530: 'erofs',
  16914839: '9p',
};

export interface FilesystemInfo {
  readonly magic: number;
  /** Docker's name of it; `<unknown>` for one that is not in the table. */
  readonly name: string;
  readonly blockSizeBytes: number;
  readonly availableBytes: number;
  readonly nameBytesMax: number;
}

export function statfs(path: ByteString): FilesystemInfo {
  const b = Buffer.alloc(120);
  judge(libc.statfs(cstring(path), b), 'stat the filesystem of', path, []);
  const magic = b.readUInt32LE(0);
  const blockSizeBytes = Number(b.readBigInt64LE(8));
  return {
    magic,
    name: NAMES[magic] ?? '<unknown>',
    blockSizeBytes,
    availableBytes: Number(b.readBigUInt64LE(32)) * blockSizeBytes,
    nameBytesMax: Number(b.readBigInt64LE(64)),
  };
}
