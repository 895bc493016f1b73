import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import type { RunOptions } from '../base/pool.ts';
import type { Abortable, ByteStream } from '../base/values.ts';
import type { InflateLimits } from '../codec/inflate.ts';
import type { KeepRequest, SpoolRequest, UnkeepRequest } from './jobs/blobs.ts';
import type { FileRange, InflateAnswer } from './jobs/inflate.ts';
import { jobStream } from './streams.ts';
import type { Threads } from './threads.ts';

// Compressed bytes and files, done in job threads: what a store does with blobs beside unpacking them into layers.

/** Unpacks `from` into the open file `to` (absent: nowhere) and answers both digests. */
export function spoolBlob(
  threads: Threads,
  from: FileRange,
  to: number | undefined,
  options: RunOptions & { readonly limits?: Partial<InflateLimits> } = {},
): Promise<InflateAnswer> {
  const request: SpoolRequest = { from, ...(to === undefined ? {} : { to }), limits: options.limits ?? {} };
  return threads.jobs.run({ name: 'spool', request }, options);
}

/** Keeps a layer's tar in the new file `to`, compressed. */
export function keepTar(threads: Threads, request: KeepRequest, options: Abortable = {}): Promise<void> {
  return threads.jobs.run({ name: 'keep', request }, { signal: options.signal });
}

/** A kept tar as it came in; verified against `diffId` at its end. */
export function keptTar(threads: Threads, kept: ByteString, diffId: Digest, options: Abortable = {}): ByteStream {
  const job = (request: UnkeepRequest): { name: string; request: unknown } => ({ name: 'unkeep', request });
  return jobStream(threads.jobs, (ring) => job({ kept, diffId, to: { kind: 'ring', ring } }), {
    signal: options.signal,
  });
}

/** As `keptTar`, into an open file from `offset` on. */
export function keptTarTo(
  threads: Threads,
  kept: ByteString,
  diffId: Digest,
  to: { readonly fd: number; readonly offset: number },
  options: RunOptions = {},
): Promise<void> {
  const request: UnkeepRequest = { kept, diffId, to: { kind: 'file', ...to } };
  return threads.jobs.run({ name: 'unkeep', request }, options);
}

/** As `keptTar`, but only verified. */
export function verifyKept(threads: Threads, kept: ByteString, diffId: Digest, options: Abortable = {}): Promise<void> {
  const request: UnkeepRequest = { kept, diffId };
  return threads.jobs.run({ name: 'unkeep', request }, { signal: options.signal });
}
