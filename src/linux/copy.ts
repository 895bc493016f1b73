import { judge, libc } from './libc.ts';

/** copy_file_range(2) from and to the descriptors' own offsets; answers the bytes copied, 0 at the end. */
export function copyFileRange(from: number, to: number, lengthBytes: number, ...tolerated: number[]): number {
  const result = libc.copy_file_range(from, null, to, null, lengthBytes, 0);
  return judge(Number(result), 'copy to', `descriptor ${to}`, tolerated);
}

const POSIX_FADV_WILLNEED = 3;

/** posix_fadvise(2): the first bytes of a file will be read soon. A filesystem that cannot do it does nothing. */
export function readAhead(fd: number, lengthBytes: number): void {
  libc.posix_fadvise(fd, 0, lengthBytes, POSIX_FADV_WILLNEED);
}

const FICLONE = 0x40049409;

/** ioctl FICLONE: `to` shares all blocks of `from`; false where that cannot be, for whatever reason. */
export function ficlone(from: number, to: number): boolean {
  return libc.ioctl(to, FICLONE, from) === 0;
}
