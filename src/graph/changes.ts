import type { Job } from '../base/pool.ts';
import type { RingMemory } from '../base/ring.ts';
import type { Change } from '../base/values.ts';
import { type ChangesRequest, readChanges } from './jobs/compare.ts';
import { jobStream } from './streams.ts';
import type { Threads } from './threads.ts';

/** Of this thread, not of a store: whether it is elsewhere, for a list. Another one is a job's then. */
const thread = { isElsewhere: false };

/** The changes that a job lists, or the thread that asks, where `threads` have it so and the list is a short one. */
export async function* listedBy(
  threads: Threads,
  request: Omit<ChangesRequest, 'to'>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Change, void, undefined> {
  // Where names may be links that only the whole mount shows, all of them are looked at.
  if (threads.here && !thread.isElsewhere && request.views.upper?.noIndex !== false) {
    thread.isElsewhere = true;
    try {
      const { changesHere } = await import('./jobs/here.ts');
      if (yield* changesHere(request, signal)) return;
    } finally {
      thread.isElsewhere = false;
    }
  }
  const job = (ring: RingMemory): Job => ({
    name: 'changes',
    request: { ...request, to: ring } satisfies ChangesRequest,
  });
  yield* readChanges(jobStream(threads.jobs, job, { signal }));
}
