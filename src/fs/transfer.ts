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

/** Throws it as a StorageError, unless it only says that a signal came. */
function raise(error: unknown, syscall: string, path: ByteString): void {
  const errno = -((error as NodeJS.ErrnoException).errno ?? -EIO);
  if (errno !== EINTR) throw systemError(syscall, errno, path);
}
