import type { Abortable } from './values.ts';

/**
 * Starts work that goes on side by side and awaits all of it. Where one fails, the signal that the others were given
 * aborts, and its error is thrown when all have ended; where the caller gives up, his reason.
 */
export async function together<T>(
  { signal }: Abortable,
  start: (signal: AbortSignal) => Iterable<Promise<T>>,
): Promise<T[]> {
  const failed = new AbortController();
  let failure: { readonly error: unknown } | undefined;
  const note = (error: unknown): undefined => {
    failure ??= { error };
    failed.abort(error);
    return undefined;
  };
  const given = signal === undefined ? failed.signal : AbortSignal.any([signal, failed.signal]);
  const results = await Promise.all([...start(given)].map((one) => one.catch(note)));
  signal?.throwIfAborted();
  if (failure !== undefined) throw failure.error;
  return results as T[];
}
