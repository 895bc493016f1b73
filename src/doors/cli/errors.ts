import { type ByteString, quote, toText } from '../../base/bytes.ts';
import { type ErrorCode, isStorageError, nodeErrno, StorageError } from '../../base/errors.ts';

/** What a failed call of `node:fs` means to the caller. What is not listed is refused by the machine: precondition. */
const CODES: ReadonlyMap<string, readonly [ErrorCode, string]> = new Map([
  ['ENOENT', ['not-found', 'no such file or directory']],
  ['EACCES', ['permission-denied', 'permission denied']],
  ['EPERM', ['permission-denied', 'not permitted']],
  ['EEXIST', ['already-exists', 'it exists']],
  ['ENOTEMPTY', ['already-exists', 'the directory is not empty']],
  ['EBUSY', ['busy', 'it is in use']],
  ['ETXTBSY', ['busy', 'it is running']],
  ['ENOTDIR', ['invalid-argument', 'a part of the path is no directory']],
  ['EISDIR', ['invalid-argument', 'it is a directory']],
  ['ELOOP', ['invalid-argument', 'too many symbolic links']],
  ['ENAMETOOLONG', ['invalid-argument', 'a name is too long']],
  ['ENOSPC', ['resource-exhausted', 'no space left on the filesystem']],
  ['EDQUOT', ['resource-exhausted', 'the quota is used up']],
  ['EBADF', ['invalid-argument', 'it is closed']],
  ['EFBIG', ['resource-exhausted', 'the file would be too large']],
  ['EMFILE', ['resource-exhausted', 'too many open files']],
  ['ENFILE', ['resource-exhausted', 'too many open files']],
  ['EROFS', ['failed-precondition', 'the filesystem is read-only']],
  ['EIO', ['unavailable', 'the disk reported an error']],
]);

/** True for an error that a call of `node:fs` or a stream made. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException & { readonly code: string } {
  if (!(error instanceof Error) || isStorageError(error)) return false;
  return 'syscall' in error && 'code' in error && typeof error.code === 'string';
}

/** The error of a failed `node:fs` call as one of ours: `Cannot ACTION "PATH": state (ENOENT)`. Others pass as they are. */
export function explained(error: unknown, action: string, path: ByteString): unknown {
  if (!isSystemError(error)) return error;
  const errno = nodeErrno(error);
  const [code, state] = CODES.get(errno) ?? ['failed-precondition', 'the system refuses'];
  const message = `Cannot ${action} ${quote(path)}: ${state} (${errno})`;
  return new StorageError(code, message, { path, errno, cause: error });
}

/** One line for people, without control characters: what failed, in which state, what to do. */
export function errorLine(error: unknown): string {
  if (isStorageError(error)) {
    const { message, remedy } = error;
    return oneLine(remedy === undefined || message.includes(remedy) ? message : `${message}; ${remedy}`);
  }
  const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  return oneLine(`Internal error: ${text}; this is a bug, please report it (--log-level debug shows where)`);
}

/** `text` on one line, each control character escaped, so that nothing in it can fake another line. */
export function oneLine(text: string): string {
  const escaped = quote(Buffer.from(text, 'utf8').toString('latin1') as ByteString);
  // quote() also guards the quotes that messages rightly hold.
  return escaped.slice(1, -1).replace(/\\(["\\])/g, '$1');
}

/** A name from a layer or an image: as it is where it is harmless, else quoted. */
export function harmless(name: ByteString): string {
  const quoted = quote(name);
  const text = toText(name);
  return quoted === `"${text}"` ? text : quoted;
}
