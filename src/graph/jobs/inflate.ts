import { createHash } from 'node:crypto';
import { readSync } from 'node:fs';
import type { Digest } from '../../base/digest.ts';
import { StorageError } from '../../base/errors.ts';
import type { JobContext } from '../../base/pool.ts';
import { type RingMemory, RingWriter } from '../../base/ring.ts';
import { type InflateLimits, Inflater } from '../../codec/inflate.ts';
import { type Compression, SNIFF_BYTES, sniff } from '../../codec/sniff.ts';

/** A run of an open file. The descriptor stays the asker's. */
export interface FileRange {
  readonly fd: number;
  readonly offset: number;
  readonly length: number;
}

export interface InflateRequest {
  readonly from: FileRange;
  readonly to: RingMemory;
  /** The 32 bytes of the tar's digest, there before the ring ends. */
  readonly tarSha256: SharedArrayBuffer;
  readonly limits: Partial<InflateLimits>;
}

export interface InflateAnswer {
  readonly blobDigest: Digest;
  readonly diffId: Digest;
  readonly tarBytes: number;
  readonly compression: Compression;
}

/** Where plain bytes go: as `InflateSink`, and hashed on the way. */
export interface PlainSink {
  reserve(): Uint8Array;
  commit(bytes: number): void;
}

const READ_BYTES = 256 * 1024;

/** Reads, hashes and unpacks a blob into `sink`; the sum of both digests. Used by the inflating thread and, for small layers, by the unpacking one. */
export function inflateRange(
  from: FileRange,
  sink: PlainSink,
  limits: Partial<InflateLimits>,
  context: JobContext,
): InflateAnswer & { readonly tarSha256: Buffer } {
  const blobHash = createHash('sha256');
  const tarHash = createHash('sha256');
  let tarBytes = 0;
  let slot: Uint8Array = new Uint8Array(0);
  const hashing: PlainSink = {
    reserve() {
      slot = sink.reserve();
      return slot;
    },
    commit(bytes) {
      tarHash.update(slot.subarray(0, bytes));
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
  const tarSha256 = tarHash.digest();
  return {
    blobDigest: `sha256:${blobHash.digest('hex')}`,
    diffId: `sha256:${tarSha256.toString('hex')}`,
    tarBytes,
    compression,
    tarSha256,
  };
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
  const { tarSha256, ...answer } = inflateRange(request.from, writer, request.limits, context);
  new Uint8Array(request.tarSha256).set(tarSha256);
  writer.end();
  return answer;
}
