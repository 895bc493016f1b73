import { type ErrorCode, isStorageError } from '../../base/errors.ts';

/** A check found a fault. */
export const FOUND_FAULT = 1;

// biome-ignore format: a table
const EXIT_CODES: Readonly<Record<ErrorCode, number>> = {
  'invalid-argument':    2,
  'not-found':           3,
  'already-exists':      4,
  'busy':                4,
  'failed-precondition': 5,
  'unsupported':         5,
  'corrupt':             6,
  'unavailable':         7,
  'resource-exhausted':  8,
  'permission-denied':   9,
  'internal':            70,
  'canceled':            130,
};

/** What the shell is told of an error; what nobody gave a meaning to is a bug. */
export function exitCodeOf(error: unknown): number {
  return isStorageError(error) ? EXIT_CODES[error.code] : 70;
}
