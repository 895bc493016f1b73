import { closeSync } from 'node:fs';

// Node closes what a thread opened by node:fs when it ends. Of what it opened by other calls only the thread knows: it
// keeps a list in memory that outlives it, so that whoever started it can close what a sudden end left open.

/** The data that a job thread is started with: a byte for each descriptor, 1 where the thread has it open. */
export interface ThreadData {
  readonly layerstoreOpened: SharedArrayBuffer;
}

/** Descriptors from here on are not on the list. */
export const OPENED_BYTES = 65_536;

/** Of this thread; a main thread has none. */
const own: { list?: Uint8Array } = {};

/** From now on this thread keeps the list; `data` is what it was started with. */
export function keepList(data: ThreadData): void {
  own.list = new Uint8Array(data.layerstoreOpened);
}

/** Notes a descriptor that this thread has just opened, and answers it; a negative number is none. */
export function opened(fd: number): number {
  if (own.list !== undefined && fd >= 0) own.list[fd] = 1;
  return fd;
}

/** To be told before a descriptor is closed: afterwards its number may be another thread's. */
export function closing(fd: number): void {
  if (own.list !== undefined && fd >= 0) own.list[fd] = 0;
}

/** Closes what a thread, which has ended, had open. */
export function closeOpened(memory: SharedArrayBuffer): void {
  const left = new Uint8Array(memory);
  for (let fd = left.indexOf(1); fd >= 0; fd = left.indexOf(1, fd + 1)) {
    try {
      closeSync(fd);
    } catch {
      // It is gone in any case.
    }
  }
}
