import { readSync } from 'node:fs';
import type { Hasher } from '../../base/crypto.ts';
import type { Digest } from '../../base/digest.ts';
import { StorageError } from '../../base/errors.ts';
import type { JobContext } from '../../base/pool.ts';
import { type RingMemory, RingWriter } from '../../base/ring.ts';
import { type InflateLimits, Inflater } from '../../codec/inflate.ts';
import { type Compression, SNIFF_BYTES, sniff } from '../../codec/sniff.ts';
import { sha256 } from '../../linux/sha256.ts';
import { putDigest } from './hash.ts';

/** A run of an open file. The descriptor stays the asker's. */
export interface FileRange {
  readonly fd: number;
  readonly offset: number;
  readonly length: number;
}

export interface InflateRequest {
  readonly from: FileRange;
  readonly to: RingMemory;
  /** Where the tar's digest is put, if this job is to make it. */
  readonly tarSha256?: SharedArrayBuffer;
  readonly limits: Partial<InflateLimits>;
}

export interface InflateAnswer {
  readonly blobDigest: Digest;
  readonly tarBytes: number;
  readonly compression: Compression;
}

export interface HashedAnswer extends InflateAnswer {
  readonly diffId: Digest;
  readonly tarSha256: Buffer;
}

/** Where plain bytes go: as `InflateSink`, and hashed on the way. */
export interface PlainSink {
  reserve(): Uint8Array;
  commit(bytes: number): void;
}

const READ_BYTES = 256 * 1024;

/**
 * Reads, hashes and unpacks a blob into `sink`. Used by the inflating thread and, for small layers, by the unpacking
 * one. What is unpacked goes into `tarHash` too.
 */
export function inflateRange(
  from: FileRange,
  sink: PlainSink,
  limits: Partial<InflateLimits>,
  context: JobContext,
  tarHash?: Hasher,
): InflateAnswer {
  const blobHash = sha256();
  let tarBytes = 0;
  let slot: Uint8Array = new Uint8Array(0);
  const hashing: PlainSink = {
    reserve() {
      slot = sink.reserve();
      return slot;
    },
    commit(bytes) {
      tarHash?.update(slot.subarray(0, bytes));
      tarBytes += bytes;
      sink.commit(bytes);
    },
  };
  const buffer = Buffer.allocUnsafe(Math.max(SNIFF_BYTES, Math.min(READ_BYTES, from.length)));
  let inflater: Inflater | undefined;
  let compression: Compression = 'none';
  try {
    for (let at = 0; at < from.length; ) {
      context.check();
      const n = fill(from, at, buffer);
      const chunk = buffer.subarray(0, n);
      blobHash.update(chunk);
      if (inflater === undefined) {
        compression = sniff(chunk);
        inflater = new Inflater(compression, hashing, { inputSizeBytes: from.length, ...limits });
      }
      inflater.write(chunk);
      at += n;
      context.done(at);
    }
    inflater?.finish();
  } finally {
    inflater?.close();
  }
  return { blobDigest: `sha256:${blobHash.digest('hex')}`, tarBytes, compression };
}

/** As `inflateRange`, with the digest of what was unpacked. */
export function inflateHashed(...[from, sink, limits, context]: Parameters<typeof inflateRange>): HashedAnswer {
  const tarHash = sha256();
  const answer = inflateRange(from, sink, limits, context, tarHash);
  const tarSha256 = tarHash.digest();
  return { ...answer, diffId: `sha256:${tarSha256.toString('hex')}`, tarSha256 };
}

/** Fills `buffer` from `at` on, less at the end of the range; the file's end inside the range is an error. */
function fill(from: FileRange, at: number, buffer: Buffer): number {
  const want = Math.min(buffer.length, from.length - at);
  let got = 0;
  while (got < want) {
    const n = readSync(from.fd, buffer, got, want - got, from.offset + at + got);
    if (n === 0) {
      throw new StorageError(
        'corrupt',
        `Cannot read a layer: the archive ends ${from.length - at - got} bytes too early`,
      );
    }
    got += n;
  }
  return got;
}

/** Job: one blob, inflated into a ring that another thread empties. */
export function inflate(request: InflateRequest, context: JobContext): InflateAnswer {
  const writer = new RingWriter(request.to);
  const { tarSha256 } = request;
  const tarHash = tarSha256 === undefined ? undefined : sha256();
  const answer = inflateRange(request.from, writer, request.limits, context, tarHash);
  if (tarHash !== undefined) putDigest(tarSha256 as SharedArrayBuffer, tarHash.digest());
  writer.end();
  return answer;
}
