import type { ByteString } from '../../base/bytes.ts';
import { firstError, StorageError } from '../../base/errors.ts';
import { errorLine, explained, isSystemError } from './errors.ts';
import { exitCodeOf } from './exit-codes.ts';

/** Says in one line what ended the run, with `debug` also where, and answers the exit code. */
export function tell(error: unknown, stderr: NodeJS.WritableStream, debug: boolean): number {
  const known = knownError(firstError(error));
  stderr.write(`layerstore: ${errorLine(known)}\n`);
  if (debug && error instanceof Error) stderr.write(`${error.stack}\n`);
  return exitCodeOf(known);
}

function knownError(error: unknown): unknown {
  if (error instanceof Error && (error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND') {
    const remedy = 'install it again with what it depends on (in a checkout: "npm ci")';
    return new StorageError('failed-precondition', `Cannot load the program: ${error.message}`, { remedy });
  }
  if (!isSystemError(error)) return error;
  return explained(error, error.syscall ?? 'use', (error.path ?? 'standard output') as ByteString);
}
