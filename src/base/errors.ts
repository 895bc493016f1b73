import type { ByteString } from './bytes.ts';

/** Closed set: what the caller can do about it decides the code. Doors translate by one table each. */
export type ErrorCode =
  | 'invalid-argument'
  | 'not-found'
  | 'already-exists'
  | 'failed-precondition'
  | 'unsupported'
  | 'busy'
  | 'permission-denied'
  | 'resource-exhausted'
  | 'corrupt'
  | 'canceled'
  | 'unavailable'
  | 'internal';

/** What an error carries beside its message, where it applies. Plain data, so that it crosses threads. */
export interface ErrorFacts {
  readonly path?: ByteString | string;
  readonly syscall?: string;
  /** The errno's name: `ENOSPC`, `EBUSY`… */
  readonly errno?: string;
  readonly layer?: string;
  readonly expected?: string;
  readonly actual?: string;
  /** What to do about it, when the message does not say it all. */
  readonly remedy?: string;
}

/**
 * The one error class. `message` says what failed, why, and what to do: action, colon, state, values quoted.
 * @example if (isStorageError(error, 'busy')) console.error(error.message);
 */
export class StorageError extends Error {
  readonly code: ErrorCode;
  declare readonly path?: ByteString | string;
  declare readonly syscall?: string;
  declare readonly errno?: string;
  declare readonly layer?: string;
  declare readonly expected?: string;
  declare readonly actual?: string;
  declare readonly remedy?: string;

  constructor(code: ErrorCode, message: string, facts: ErrorFacts & { readonly cause?: unknown } = {}) {
    const { cause, ...rest } = facts;
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'StorageError';
    this.code = code;
    Object.assign(this, rest);
  }
}

const CODES: ReadonlySet<string> = new Set<ErrorCode>([
  'invalid-argument',
  'not-found',
  'already-exists',
  'failed-precondition',
  'unsupported',
  'busy',
  'permission-denied',
  'resource-exhausted',
  'corrupt',
  'canceled',
  'unavailable',
  'internal',
]);

/** True for a StorageError of any copy of this package (and of that code, if one is given). */
export function isStorageError(error: unknown, code?: ErrorCode): error is StorageError {
  if (!(error instanceof Error) || error.name !== 'StorageError') return false;
  const own = (error as { code?: unknown }).code;
  return typeof own === 'string' && CODES.has(own) && (code === undefined || own === code);
}

/** Of an error and those that disposing met after it (`using` joins them in a SuppressedError) the first one. */
export function firstError(error: unknown): unknown {
  let first = error;
  while (first instanceof SuppressedError) first = first.suppressed;
  return first;
}

/** The errno's name of a failed `node:fs` call. libuv has no word for EDQUOT and says `Unknown system error -122`. */
export function nodeErrno(error: unknown): string {
  const { code, errno } = (error ?? {}) as NodeJS.ErrnoException;
  return NAMELESS.get(errno ?? 0) ?? code ?? '';
}

/** What libuv has no name for. */
const NAMELESS: ReadonlyMap<number, string> = new Map([
  [-74, 'EBADMSG'],
  [-117, 'EUCLEAN'],
  [-122, 'EDQUOT'],
]);

const SYSTEM_CODES: Readonly<Record<string, ErrorCode>> = {
  ENOENT: 'not-found',
  EACCES: 'permission-denied',
  EPERM: 'permission-denied',
  ENOSPC: 'resource-exhausted',
  EFBIG: 'resource-exhausted',
  EDQUOT: 'resource-exhausted',
  EMFILE: 'resource-exhausted',
  ENFILE: 'resource-exhausted',
  ENOMEM: 'resource-exhausted',
  EROFS: 'failed-precondition',
  EIO: 'unavailable',
  EBADMSG: 'unavailable',
  EUCLEAN: 'unavailable',
};

/** A failure of node:fs that has a code of ours, as one that says `action`; anything else as it is. */
export function fromSystem(error: unknown, action: string): unknown {
  if (!(error instanceof Error) || isStorageError(error)) return error;
  const { syscall, path } = error as NodeJS.ErrnoException;
  const errno = nodeErrno(error);
  // What Node says of a module that it could not read has no number.
  if (syscall === undefined && /too many open files/.test(error.message)) {
    return new StorageError('resource-exhausted', `${action}: ${error.message}`, { cause: error });
  }
  const code = SYSTEM_CODES[errno];
  if (code === undefined || syscall === undefined) return error;
  const facts = { errno, syscall, ...(path === undefined ? {} : { path }), cause: error };
  return new StorageError(code, `${action}: ${error.message}`, facts);
}

/** Why a worker thread ended, as a code: it starts with several descriptors and its own memory, which may be lacking. */
export function threadEndCode(cause: unknown): ErrorCode {
  const { code, message } = (cause ?? {}) as NodeJS.ErrnoException;
  const lacking =
    code === 'ERR_WORKER_OUT_OF_MEMORY' || /\b(EMFILE|ENFILE|ENOMEM|EAGAIN)\b|too many open files/i.test(message ?? '');
  return lacking ? 'resource-exhausted' : 'internal';
}

/** An error as plain data, for the way between threads. `revive` is its inverse. */
export interface ErrorRecord extends ErrorFacts {
  readonly code: ErrorCode;
  readonly message: string;
  readonly stack?: string;
  readonly cause?: ErrorRecord;
}

/** Flattens any thrown thing; what is not a StorageError is `internal` and keeps its stack. */
export function record(thrown: unknown): ErrorRecord {
  const error = firstError(thrown);
  if (isStorageError(error)) {
    const { path, syscall, errno, layer, expected, actual, remedy } = error;
    const facts = Object.fromEntries(
      Object.entries({ path, syscall, errno, layer, expected, actual, remedy }).filter(([, v]) => v !== undefined),
    ) as ErrorFacts;
    return {
      code: error.code,
      message: error.message,
      ...facts,
      ...(error.stack === undefined ? {} : { stack: error.stack }),
      ...(error.cause === undefined ? {} : { cause: record(error.cause) }),
    };
  }
  if (error instanceof Error) {
    return {
      code: 'internal',
      message: error.message,
      ...(error.stack === undefined ? {} : { stack: error.stack }),
      ...(error.cause === undefined ? {} : { cause: record(error.cause) }),
    };
  }
  return { code: 'internal', message: String(error) };
}

/** The StorageError that `record` flattened. */
export function revive(flat: ErrorRecord): StorageError {
  const { code, message, stack, cause, ...facts } = flat;
  const error = new StorageError(code, message, {
    ...facts,
    ...(cause === undefined ? {} : { cause: revive(cause) }),
  });
  if (stack !== undefined) error.stack = stack;
  return error;
}
