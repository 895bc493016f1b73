import { isStorageError } from '../base/errors.ts';
import type { Job, Pool, RunOptions } from '../base/pool.ts';
import { abortRing, type RingMemory, RingReader, ringMemory } from '../base/ring.ts';

/**
 * The bytes that a job writes into a ring, as a stream. Nothing starts before the first read; a reader that stops early
 * ends the job; the job's own error, not the ring's, is what a reader sees.
 */
export async function* jobStream(
  pool: Pool,
  job: (ring: RingMemory) => Job,
  options: RunOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const ring = ringMemory();
  const giveUp = (): void => abortRing(ring);
  const stop = new AbortController();
  const signal = options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
  const running = pool.run(job(ring), { ...options, signal, giveUp, paced: true });
  running.catch(giveUp); // also where it never began: nobody else would end the reading; the error is seen below
  let whole = false;
  try {
    yield* new RingReader(ring).stream();
    whole = true;
    await running;
  } catch (error) {
    if (isStorageError(error, 'canceled')) await running;
    throw error;
  } finally {
    if (!whole) {
      stop.abort();
      await running.catch(() => {}); // the first error is already on its way
    }
  }
}
