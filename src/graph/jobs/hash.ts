import { StorageError } from '../../base/errors.ts';
import type { JobContext } from '../../base/pool.ts';
import { isAborted, type RingMemory, RingReader } from '../../base/ring.ts';
import { sha256 } from '../../linux/sha256.ts';

// The digest of what goes through a ring, taken by whichever thread has the time, for the one that needs it at the end.

const READY = 0;
const DIGEST_AT = 4;
const SHA256_BYTES = 32;
/** Whoever gives a ring up does not know who waits for its digest. */
const LOOK_MS = 20;

/** A place for one digest, shared between threads. */
export function digestMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(DIGEST_AT + SHA256_BYTES);
}

export function putDigest(memory: SharedArrayBuffer, digest: Uint8Array): void {
  new Uint8Array(memory, DIGEST_AT).set(digest);
  const words = new Int32Array(memory, 0, 1);
  Atomics.store(words, READY, 1);
  Atomics.notify(words, READY);
}

/** Waits for it; thrown out where the ring is given up. */
export function takeDigest(memory: SharedArrayBuffer, ring: RingMemory): Buffer {
  const words = new Int32Array(memory, 0, 1);
  while (Atomics.load(words, READY) === 0) {
    if (isAborted(ring)) throw new StorageError('canceled', 'Cannot take a digest: whoever makes it gave up');
    Atomics.wait(words, READY, 0, LOOK_MS);
  }
  return Buffer.from(new Uint8Array(memory, DIGEST_AT));
}

export interface HashRequest {
  readonly ring: RingMemory;
  readonly to: SharedArrayBuffer;
}

/** Job: hashes all that goes through a ring, beside its reader. */
export function hash({ ring, to }: HashRequest, context: JobContext): void {
  const reader = new RingReader(ring, 'tap');
  const digest = sha256();
  for (let view = reader.next(); view !== undefined; view = reader.next()) {
    context.check();
    digest.update(view);
    reader.release();
  }
  putDigest(to, digest.digest());
}
