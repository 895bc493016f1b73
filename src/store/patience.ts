import { setTimeout as sleep } from 'node:timers/promises';
import { nowMs } from '../base/clock.ts';
import { isStorageError } from '../base/errors.ts';
import { unlessAborted } from '../base/until.ts';

/** As fcntl(2) says it of a lock that another process has: the `errno` of a database that is held, and of nothing else. */
export const LOCKED = 'EAGAIN';

/** How long a request waits for other processes that hold the database. */
export interface Patience {
  /** Then it is `busy`. */
  readonly ms: number;
  /** What is being answered is answered; what waits rejects with the reason at once. */
  readonly signal?: AbortSignal;
}

const PAUSE_MS_MAX = 50;

/** Repeats a request that found the database held: such a one has changed nothing. */
export async function patiently<T>(ask: () => Promise<T>, patience: Patience): Promise<T> {
  const { ms } = patience;
  const until = nowMs() + ms;
  for (let pauseMs = 1; ; pauseMs = Math.min(pauseMs * 2, PAUSE_MS_MAX)) {
    try {
      return await ask();
    } catch (error) {
      const held = isStorageError(error, 'busy') && error.errno === LOCKED;
      if (!held || nowMs() >= until) throw error;
    }
    // Not all at once again.
    await unlessAborted(sleep(pauseMs * (0.5 + Math.random())), patience);
  }
}
