import { type ErrorCode, isStorageError } from '../../base/errors.ts';

/** A check found a fault. */
export const FOUND_FAULT = 1;
export const UNSUPPORTED = 5;
export const PERMISSION = 9;
export const INTERNAL = 70;
export const INTERRUPTED = 130;

// biome-ignore format: a table
const EXIT_CODES: Readonly<Record<ErrorCode, number>> = {
  'invalid-argument':    2,
  'not-found':           3,
  'already-exists':      4,
  'busy':                4,
  'failed-precondition': UNSUPPORTED,
  'unsupported':         UNSUPPORTED,
  'corrupt':             6,
  'unavailable':         7,
  'resource-exhausted':  8,
  'permission-denied':   PERMISSION,
  'internal':            INTERNAL,
  'canceled':            INTERRUPTED,
};

/** What the shell is told of an error; what nobody gave a meaning to is a bug. */
export function exitCodeOf(error: unknown): number {
  return isStorageError(error) ? EXIT_CODES[error.code] : INTERNAL;
}
