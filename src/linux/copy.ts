import { addressOf, EAGAIN, judge, lastErrno, libc, NR } from './libc.ts';

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

/** What `cachedContent` answers is at most so long. */
export const CACHED_MAX_BYTES: number = 64 * 1024;
const RWF_NOWAIT = 8;
/** At least: a page cache has whole ones. */
const PAGE_BYTES = 4096;
const CACHED = Buffer.allocUnsafeSlow(CACHED_MAX_BYTES);
const CACHED_BYTES = new Uint8Array(CACHED.buffer);
const NOTHING = new Uint8Array(0);
/** struct iovec: where they are, and how many. */
const VECTOR = new BigUint64Array(2);
const VECTOR_32 = new Uint32Array(VECTOR.buffer);

/** preadv2(2) into `CACHED` of what the page cache has: how many bytes, or below 0. */
function readCached(fd: number, length: number, offset: number): number {
  if (VECTOR[0] === 0n) VECTOR[0] = addressOf(CACHED);
  // No more than the file has: of the page at its end the cache may have the blocks that were written, and not the others.
  VECTOR_32[2] = length;
  return libc.preadv2(NR.preadv2, fd, VECTOR, 1, offset, 0, RWF_NOWAIT);
}

/**
 * The first `sizeBytes` of a file, without a wait for a disk; undefined where the page cache has not all of them, the
 * file ends before, they are more than `CACHED_MAX_BYTES`, or the filesystem does not say. Borrowed until the next call.
 */
export function cachedContent(fd: number, sizeBytes: number): Uint8Array | undefined {
  if (sizeBytes === 0) return NOTHING;
  if (sizeBytes > CACHED_MAX_BYTES || readCached(fd, sizeBytes, 0) !== sizeBytes) return undefined;
  return CACHED_BYTES.subarray(0, sizeBytes);
}

/** Whether the page cache has the first and the last byte of a file; undefined where the filesystem does not say. */
export function isCached(fd: number, sizeBytes: number): boolean | undefined {
  for (const offset of sizeBytes > PAGE_BYTES ? [0, sizeBytes - 1] : [0]) {
    if (readCached(fd, 1, offset) < 0) return lastErrno() === EAGAIN ? false : undefined;
  }
  return true;
}

const FICLONE = 0x40049409;

/** ioctl FICLONE: `to` shares all blocks of `from`; false where that cannot be, for whatever reason. */
export function ficlone(from: number, to: number): boolean {
  return libc.ioctl(to, FICLONE, from) === 0;
}
