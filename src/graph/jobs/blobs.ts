import { closeSync, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { type ByteString, toBytes } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';
import type { JobContext } from '../../base/pool.ts';
import { Deflater } from '../../codec/deflate.ts';
import type { InflateLimits } from '../../codec/inflate.ts';
import { type FileRange, type HashedAnswer, inflateHashed } from './inflate.ts';
import { type Out, type PackedBlob, writerOf } from './out.ts';
import { openOwn } from './own-file.ts';

const PIECE_BYTES = 256 * 1024;

export interface SpoolRequest {
  readonly from: FileRange;
  /** An open file, written from its offset on; absent: the bytes are only hashed. */
  readonly to?: number;
  readonly limits: Partial<InflateLimits>;
}

export type SpoolAnswer = Omit<HashedAnswer, 'tarSha256'>;

/** Job: unpacks a blob into a file, or nowhere; answers both digests. */
export function spool(request: SpoolRequest, context: JobContext): SpoolAnswer {
  const room = Buffer.allocUnsafe(PIECE_BYTES);
  const sink = {
    reserve: () => room,
    commit: (bytes: number) => {
      if (request.to !== undefined) writeFully(request.to, room.subarray(0, bytes));
    },
  };
  const { tarSha256: _, ...answer } = inflateHashed(request.from, sink, request.limits, context);
  return answer;
}

export interface KeepRequest {
  readonly from: FileRange;
  /** A new file. */
  readonly to: ByteString;
  /** Already compressed: copied as it is. Else packed with zstd. */
  readonly compressed: boolean;
}

/** Job: keeps a layer's tar, compressed, where no replay would give it back. */
export function keep(request: KeepRequest, context: JobContext): void {
  const { from } = request;
  const fd = openSync(toBytes(request.to), 'wx', 0o600);
  const deflater = request.compressed ? undefined : new Deflater('zstd', (bytes) => writeFully(fd, bytes));
  try {
    const buffer = Buffer.allocUnsafe(PIECE_BYTES);
    for (let at = 0; at < from.length; ) {
      context.check();
      const n = readSync(from.fd, buffer, 0, Math.min(buffer.length, from.length - at), from.offset + at);
      if (n === 0) throw new StorageError('corrupt', 'Cannot keep a layer: its archive was cut meanwhile');
      if (deflater === undefined) writeFully(fd, buffer.subarray(0, n));
      else deflater.write(buffer.subarray(0, n));
      at += n;
      context.done(at);
    }
    deflater?.finish();
  } finally {
    deflater?.close();
    closeSync(fd);
  }
}

export interface CopyRangeRequest {
  readonly from: FileRange;
  /** An open file, and where in it. */
  readonly to: { readonly fd: number; readonly offset: number };
}

/** Job: a run of one open file into another. */
export function copyRange({ from, to }: CopyRangeRequest, context: JobContext): void {
  using writer = writerOf({ kind: 'file', ...to });
  for (let at = 0; at < from.length; ) {
    context.check();
    const room = writer.reserve();
    const n = readSync(from.fd, room, 0, Math.min(room.length, from.length - at), from.offset + at);
    if (n === 0) throw new StorageError('internal', `Cannot copy ${from.length} bytes: there are ${at}`);
    writer.commit(n);
    at += n;
  }
}

export interface UnkeepRequest {
  readonly kept: ByteString;
  readonly diffId: string;
  /** Absent: only verified. */
  readonly to?: Out;
}

/** Job: a kept tar, unpacked; `corrupt` where it is not that of `diffId`. Answers what it became, where it is compressed. */
export function unkeep(request: UnkeepRequest, context: JobContext): PackedBlob | undefined {
  const fd = openOwn(request.kept);
  try {
    using writer = writerOf(request.to);
    const range = { fd, offset: 0, length: fstatSync(fd).size };
    const { diffId } = inflateHashed(range, writer, { ratioMax: Number.POSITIVE_INFINITY }, context);
    if (diffId !== request.diffId) {
      throw new StorageError('corrupt', `Cannot give layer ${request.diffId} back: its kept tar is now ${diffId}`, {
        expected: request.diffId,
        actual: diffId,
      });
    }
    return writer.end();
  } finally {
    closeSync(fd);
  }
}

function writeFully(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at);
}
