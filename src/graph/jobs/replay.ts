import { closeSync, readSync } from 'node:fs';
import { type ByteString, quote } from '../../base/bytes.ts';
import type { Digest } from '../../base/digest.ts';
import { StorageError } from '../../base/errors.ts';
import type { JobContext } from '../../base/pool.ts';
import { Inflater } from '../../codec/inflate.ts';
import { doAll, NO_PIECES, ReadAhead } from '../../fs/read-ahead.ts';
import { located } from '../../linux/libc.ts';
import { sha256 } from '../../linux/sha256.ts';
import { SplitReader } from '../../tar/split.ts';
import type { Extent } from '../../tar/types.ts';
import { layerFiles } from '../layer-files.ts';
import { type Out, type OutWriter, type PackedBlob, writeInto, writerOf } from './out.ts';
import { openOwn } from './own-file.ts';

export interface ReplayRequest {
  /** The split record. */
  readonly record: ByteString;
  /** The layer's own tree. */
  readonly root: ByteString;
  readonly diffId: Digest;
  /** Absent: only verified. */
  readonly to?: Out;
}

/**
 * Job: a layer's tar from its record and files, byte for byte. Ends with `corrupt` where it is not the tar of `diffId`.
 * Answers what it became, where it is compressed.
 */
export function replay(request: ReplayRequest, context: JobContext): PackedBlob | undefined {
  using writer = writerOf(request.to);
  const out = new HashedOut(writer, context);
  using files = layerFiles(request.root, (name, how) => changed(request, name, how));
  using ahead = new ReadAhead((bytes) => writeInto(out, bytes));
  let ended = false;
  const split = new SplitReader({
    onRaw(bytes) {
      ahead.bytes(bytes);
      doAll(ahead.advance());
    },
    onFile(name, payloadBytes, extents) {
      const file = files.open(name);
      ahead.file(file, () => {
        const { fd, sizeBytes } = file;
        if (extents === undefined && sizeBytes !== payloadBytes) {
          throw changed(request, name, `it has ${sizeBytes} bytes instead of ${payloadBytes}`);
        }
        try {
          for (const { offset, length } of extents ?? [{ offset: 0, length: payloadBytes } satisfies Extent]) {
            if (out.copy(fd, offset, length)) continue;
            throw changed(request, name, `it has fewer than ${offset + length} bytes`);
          }
        } catch (error) {
          throw located(error, name);
        }
        context.done(out.bytes);
        return NO_PIECES;
      });
      doAll(ahead.advance());
    },
    onEnd() {
      ended = true;
    },
  });
  feedRecord(request.record, split);
  doAll(ahead.drain());
  const digest = out.digest();
  if (!ended || digest !== request.diffId) {
    throw new StorageError(
      'corrupt',
      `Cannot give layer ${request.diffId} back: its files and record make ${digest}; its files were changed`,
      { expected: request.diffId, actual: digest },
    );
  }
  return writer.end();
}

/** Gives a split record on disk to its reader. */
export function feedRecord(path: ByteString, split: SplitReader): void {
  const fd = openOwn(path);
  const room = Buffer.allocUnsafe(256 * 1024);
  // The record is our own file; headers repeat so much that no ratio tells it from a bomb.
  const limits = { ratioMax: Number.POSITIVE_INFINITY };
  const inflater = new Inflater(
    'zstd',
    { reserve: () => room, commit: (n) => split.write(room.subarray(0, n)) },
    limits,
  );
  try {
    const buffer = Buffer.allocUnsafe(64 * 1024);
    for (;;) {
      const n = readSync(fd, buffer);
      if (n === 0) break;
      inflater.write(buffer.subarray(0, n));
    }
    inflater.finish();
    split.finish();
  } finally {
    inflater.close();
    closeSync(fd);
  }
}

/** Bytes on their way out, hashed; the room that the writer gives is filled whole. */
class HashedOut {
  readonly #writer: OutWriter;
  readonly #context: JobContext;
  readonly #hash = sha256();
  #slot: Uint8Array | undefined;
  #used = 0;
  bytes = 0;

  constructor(writer: OutWriter, context: JobContext) {
    this.#writer = writer;
    this.#context = context;
  }

  reserve(): Uint8Array {
    this.#slot ??= this.#writer.reserve();
    return this.#slot.subarray(this.#used);
  }

  commit(n: number): void {
    this.#used += n;
    this.bytes += n;
    if (this.#slot !== undefined && this.#used === this.#slot.length) this.#flush();
  }

  #flush(): void {
    if (this.#slot === undefined) return;
    this.#context.check();
    this.#hash.update(this.#slot.subarray(0, this.#used));
    this.#writer.commit(this.#used);
    this.#slot = undefined;
    this.#used = 0;
  }

  /** False where the file ends before. */
  copy(fd: number, offset: number, length: number): boolean {
    for (let at = 0; at < length; ) {
      const room = this.reserve();
      const n = readSync(fd, room, 0, Math.min(room.length, length - at), offset + at);
      if (n === 0) return false;
      this.commit(n);
      at += n;
    }
    return true;
  }

  digest(): Digest {
    this.#flush();
    return `sha256:${this.#hash.digest('hex')}`;
  }
}

function changed({ diffId }: ReplayRequest, name: ByteString, how: string): StorageError {
  const message = `Cannot give layer ${diffId} back: ${quote(name)} was changed, ${how}`;
  return new StorageError('corrupt', message, { path: name, layer: diffId });
}
