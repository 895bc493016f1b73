import { readSync, writeSync } from 'node:fs';
import type { ByteString } from '../base/bytes.ts';
import { EINTR, EIO, systemError } from '../linux/libc.ts';

// Node's own read and write serve any descriptor without a copy; their errors become ours here.

/** read(2) at the descriptor's own offset into `buffer`: how many bytes, 0 at the end. `path` is for the error. */
export function readSome(fd: number, buffer: Uint8Array, at: number, length: number, path: ByteString): number {
  for (;;) {
    try {
      return readSync(fd, buffer, at, length, null);
    } catch (error) {
      raise(error, 'read', path);
    }
  }
}

/** write(2) at the descriptor's own offset until all of `data` is written. `path` is for the error. */
export function writeAll(fd: number, data: Uint8Array, path: ByteString): void {
  for (let at = 0; at < data.length; ) {
    try {
      at += writeSync(fd, data, at);
    } catch (error) {
      raise(error, 'write', path);
    }
  }
}

const BLOCK_BYTES = 4096;
const ZEROS: Buffer = Buffer.alloc(BLOCK_BYTES);

/**
 * Writes what belongs at `offset`, but for the file's blocks that are zero: holes, once the file has its size. Answers
 * whether the last of it was written. Errors are Node's.
 */
export function writeAroundZeros(fd: number, bytes: Uint8Array, offset: number): boolean {
  let written = 0;
  const writeUpTo = (end: number): void => {
    while (written < end) written += writeSync(fd, bytes, written, end - written, offset + written);
  };
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + BLOCK_BYTES - ((offset + at) % BLOCK_BYTES));
    if (bytes[at] === 0 && ZEROS.compare(bytes, at, end, 0, end - at) === 0) {
      writeUpTo(at);
      written = end;
    }
    at = end;
  }
  const isWritten = written < bytes.length;
  writeUpTo(bytes.length);
  return isWritten;
}

/** Throws it as a StorageError, unless it only says that a signal came. */
function raise(error: unknown, syscall: string, path: ByteString): void {
  const errno = -((error as NodeJS.ErrnoException).errno ?? -EIO);
  if (errno !== EINTR) throw systemError(syscall, errno, path);
}
