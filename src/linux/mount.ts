import type { ByteString } from '../base/bytes.ts';
import { cstring, judge, libc } from './libc.ts';

export const MS_RDONLY = 1;
export const MS_REMOUNT = 32;
export const MS_BIND = 4096;
export const MS_REC = 16384;
export const MS_PRIVATE: number = 1 << 18;
export const MS_SLAVE: number = 1 << 19;

export const MNT_DETACH = 2;
export const UMOUNT_NOFOLLOW = 8;

/** mount(2). `data` is what the filesystem is told; it must fit in one page with its NUL. */
export function mount(
  source: ByteString,
  target: ByteString,
  type: ByteString,
  flags: number,
  data: ByteString,
  ...tolerated: number[]
): number {
  const result = libc.mount(cstring(source), cstring(target), cstring(type), flags, cstring(data));
  return judge(result, 'mount', target, tolerated);
}

/** umount2(2), never through a symlink at the end. */
export function umount(target: ByteString, flags = 0, ...tolerated: number[]): number {
  return judge(libc.umount2(cstring(target), flags | UMOUNT_NOFOLLOW), 'unmount', target, tolerated);
}

/** Bytes of one page: what mount(2) takes of options, its NUL included. */
export function pageSizeBytes(): number {
  return libc.getpagesize();
}
