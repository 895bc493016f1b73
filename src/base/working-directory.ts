import { readlinkSync } from 'node:fs';
import { posix, resolve } from 'node:path';
import { type ByteString, fromBytes, fromText, quote } from './bytes.ts';
import { StorageError, threadEndCode } from './errors.ts';

/** `path` made absolute now, as the caller may change directory later; `failed-precondition` where that is not possible. */
export function absolute(path: string): string {
  try {
    return resolve(path);
  } catch (cause) {
    throw isRemoved(cause) ? removed(`resolve ${JSON.stringify(path)}`, cause) : cause;
  }
}

/** As `absolute`, of a path that need not be UTF-8, in a working directory that need not be either. */
export function absoluteBytes(path: string | Uint8Array): ByteString {
  const given = typeof path === 'string' ? fromText(path) : fromBytes(path);
  if (given.includes('\0')) throw new StorageError('invalid-argument', `Cannot use ${quote(given)}: a path has no NUL`);
  if (given.startsWith('/')) return posix.resolve(given) as ByteString;
  const here = absolute('.');
  const directory = here.includes('\ufffd') ? fromBytes(readlinkSync('/proc/self/cwd', 'buffer')) : fromText(here);
  return posix.resolve(directory, given) as ByteString;
}

/** Why `action` failed when its worker thread ended: with an error, or with an exit code. */
export function threadEnd(action: string, end: Error | number): StorageError {
  if (isRemoved(end)) return removed(action, end);
  const why = end instanceof Error ? end.message : `exit ${end}`;
  return new StorageError(threadEndCode(end), `Cannot ${action}: its thread ended (${why})`, {
    ...(end instanceof Error ? { cause: end } : {}),
  });
}

/** Node asks for the working directory when a thread starts, and for relative paths; uv_cwd is what it calls that. */
function isRemoved(cause: unknown): boolean {
  const { code, syscall } = (cause ?? {}) as NodeJS.ErrnoException;
  return code === 'ENOENT' && syscall === 'uv_cwd';
}

function removed(action: string, cause: unknown): StorageError {
  const remedy = 'change to one that exists';
  return new StorageError('failed-precondition', `Cannot ${action}: the working directory was removed; ${remedy}`, {
    remedy,
    cause,
  });
}
