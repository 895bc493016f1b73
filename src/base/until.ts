import type { Abortable } from './values.ts';

/**
 * The items of `source`, until `signal` aborts: then it throws the reason at once, however long the source takes with
 * its next item. A source that is left early is told so (`return`), and waited for unless it was the one we waited for.
 */
export async function* until<T>(source: AsyncIterable<T>, signal: AbortSignal): AsyncGenerator<T, void, undefined> {
  signal.throwIfAborted();
  const items = source[Symbol.asyncIterator]();
  let stop: (reason: unknown) => void = () => {};
  const onAbort = (): void => stop(signal.reason);
  signal.addEventListener('abort', onAbort);
  let state: 'asking' | 'given' | 'ended' = 'given';
  try {
    for (;;) {
      signal.throwIfAborted();
      state = 'asking';
      // Not Promise.race against one promise of the whole loop: that would keep every item until the loop's end.
      const { promise, resolve, reject } = Promise.withResolvers<IteratorResult<T>>();
      stop = reject;
      Promise.resolve(items.next()).then(resolve, (error: unknown) => {
        state = 'ended';
        reject(error);
      });
      const item = await promise;
      state = item.done === true ? 'ended' : 'given';
      if (item.done === true) return;
      yield item.value;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    if (state !== 'ended') {
      const left = Promise.resolve(items.return?.()).catch(() => {}); // why we leave is already on its way
      if (state === 'given') await left;
    }
  }
}

/** What `work` comes to, unless `signal` aborts before: then it throws the reason at once, and the work is left to itself. */
export async function unlessAborted<T>(work: Promise<T>, { signal }: Abortable = {}): Promise<T> {
  if (signal === undefined) return work;
  const { promise, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => reject(signal.reason);
  signal.addEventListener('abort', onAbort);
  if (signal.aborted) onAbort();
  try {
    return await Promise.race([promise, work]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}
