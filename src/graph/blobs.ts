import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import type { RunOptions } from '../base/pool.ts';
import type { RingMemory } from '../base/ring.ts';
import type { Abortable, ByteStream } from '../base/values.ts';
import type { InflateLimits } from '../codec/inflate.ts';
import type { Lending, Watched } from './apply.ts';
import type { CompressOptions } from './crew.ts';
import type { CopyRangeRequest, KeepRequest, SpoolAnswer, SpoolRequest, UnkeepRequest } from './jobs/blobs.ts';
import type { FileRange } from './jobs/inflate.ts';
import type { Out, PackedBlob } from './jobs/out.ts';
import { jobStream, writeFile } from './streams.ts';
import type { Threads } from './threads.ts';

// Compressed bytes and files, done in job threads: what a store does with blobs beside unpacking them into layers.

/** Unpacks `from` into the open file `to` (absent: nowhere) and answers both digests. */
export function spoolBlob(
  threads: Threads,
  from: FileRange,
  to: number | undefined,
  options: RunOptions & { readonly limits?: Partial<InflateLimits> } = {},
): Promise<SpoolAnswer> {
  const request: SpoolRequest = { from, ...(to === undefined ? {} : { to }), limits: options.limits ?? {} };
  return threads.jobs.run({ name: 'spool', request }, options);
}

/** Keeps a layer's tar in the new file `to`, compressed. */
export function keepTar(threads: Threads, request: KeepRequest, options: Abortable = {}): Promise<void> {
  return threads.jobs.run({ name: 'keep', request }, { signal: options.signal });
}

/** Copies a run of one open file into another. */
export function copyRange(threads: Threads, request: CopyRangeRequest, options: RunOptions): Promise<void> {
  return threads.jobs.run({ name: 'copyRange', request }, options);
}

/** A kept tar as it came in; verified against `diffId` at its end. */
export function keptTar(
  threads: Threads,
  kept: ByteString,
  diffId: Digest,
  { signal, lend = false }: Abortable & Lending = {},
): ByteStream {
  const request = (ring: RingMemory): UnkeepRequest => ({ kept, diffId, to: { kind: 'ring', ring } });
  return jobStream(threads.jobs, (ring) => ({ name: 'unkeep', request: request(ring) }), { signal, lend });
}

/** As `keptTar`, into an open file from `offset` on, perhaps compressed: then it answers what the tar became. */
export function keptTarTo(
  threads: Threads,
  kept: ByteString,
  diffId: Digest,
  to: { readonly fd: number; readonly offset: number },
  options: Watched & CompressOptions = {},
): Promise<PackedBlob | undefined> {
  const request = (out: Out): UnkeepRequest => ({ kept, diffId, to: out });
  return writeFile(threads, to, (out) => ({ name: 'unkeep', request: request(out) }), options);
}

/** As `keptTar`, but only verified. */
export function verifyKept(threads: Threads, kept: ByteString, diffId: Digest, options: Abortable = {}): Promise<void> {
  const request: UnkeepRequest = { kept, diffId };
  return threads.jobs.run({ name: 'unkeep', request }, { signal: options.signal });
}
