import { resolve } from 'node:path';
import { StorageError, threadEndCode } from './errors.ts';

/** `path` made absolute now, as the caller may change directory later; `failed-precondition` where that is not possible. */
export function absolute(path: string): string {
  try {
    return resolve(path);
  } catch (cause) {
    throw isRemoved(cause) ? removed(`resolve ${JSON.stringify(path)}`, cause) : cause;
  }
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
