import type { Job } from '../base/pool.ts';
import type { RingMemory } from '../base/ring.ts';
import type { Change } from '../base/values.ts';
import { readChanges } from './jobs/change-records.ts';
import type { ChangesRequest } from './jobs/compare.ts';
import { jobStream } from './streams.ts';
import type { Threads } from './threads.ts';

/** The changes that a job lists, or the thread that asks, where `threads` have it so and the list is a short one; in batches. */
export async function* listedBy(
  threads: Threads,
  request: Omit<ChangesRequest, 'to'>,
  signal: AbortSignal | undefined,
): AsyncGenerator<readonly Change[], void, undefined> {
  const { upper, whole } = request.views;
  // Where names may be links that only the whole mount shows, all of them are looked at; so they are without an upper.
  if (threads.here && upper?.noIndex === true && whole === undefined) {
    const { changesHere } = await import('./jobs/here.ts');
    if (yield* changesHere(request, signal)) return;
  }
  const job = (ring: RingMemory): Job => ({
    name: 'changes',
    request: { ...request, to: ring } satisfies ChangesRequest,
  });
  yield* readChanges(jobStream(threads.jobs, job, { signal }));
}
