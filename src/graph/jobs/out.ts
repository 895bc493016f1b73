import { writeSync } from 'node:fs';
import type { Digest } from '../../base/digest.ts';
import { type RingMemory, RingWriter } from '../../base/ring.ts';
import { Deflater } from '../../codec/deflate.ts';
import type { GzipMemory } from '../../codec/gzip.ts';
import { sha256 } from '../../linux/sha256.ts';

/** How bytes are compressed on their way, and by whom beside the job's thread; see `DeflateHow`. */
export type Compressing =
  | { readonly kind: 'gzip'; readonly memory?: GzipMemory }
  | { readonly kind: 'zstd'; readonly workers: number };

/** Where a job's bytes go: through a ring to another thread, or straight into an open file. */
export type Out = { readonly compress?: Compressing | undefined } & (
  | { readonly kind: 'ring'; readonly ring: RingMemory }
  | { readonly kind: 'file'; readonly fd: number /** Of the first byte. */; readonly offset: number }
);

/** What a tar became where it was compressed. */
export interface PackedBlob {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/** Room to fill, piece by piece. Disposal frees what it holds, whether or not all was written. */
export interface OutWriter extends Disposable {
  /** At least one byte; valid until `commit`. */
  reserve(): Uint8Array;
  commit(bytes: number): void;
  /** Nothing more will come. */
  end(): PackedBlob | undefined;
}

const PIECE_BYTES = 256 * 1024;

/** The writer of `out`; undefined: the bytes are dropped. */
export function writerOf(out: Out | undefined): OutWriter {
  if (out?.compress !== undefined) return compressed(out, out.compress);
  if (out?.kind === 'ring') {
    const ring = new RingWriter(out.ring);
    return {
      reserve: () => ring.reserve(),
      commit: (bytes) => ring.commit(bytes),
      end: () => void ring.end(),
      [Symbol.dispose]() {},
    };
  }
  const room = Buffer.allocUnsafe(PIECE_BYTES);
  const write = out === undefined ? () => {} : fileWriter(out);
  return {
    reserve: () => room,
    commit: (bytes) => write(room.subarray(0, bytes)),
    end: () => undefined,
    [Symbol.dispose]() {},
  };
}

/** Copies `bytes` into the writer's room. */
export function writeInto(writer: Pick<OutWriter, 'reserve' | 'commit'>, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) {
    const room = writer.reserve();
    const part = bytes.subarray(at, at + room.length);
    room.set(part);
    writer.commit(part.length);
    at += part.length;
  }
}

function compressed(out: Out, how: Compressing): OutWriter {
  const ring = out.kind === 'ring' ? new RingWriter(out.ring) : undefined;
  const write = out.kind === 'ring' ? (bytes: Uint8Array) => ring?.write(bytes) : fileWriter(out);
  const hash = sha256();
  let sizeBytes = 0;
  const deflater = new Deflater(
    how.kind,
    (bytes) => {
      hash.update(bytes);
      sizeBytes += bytes.length;
      write(bytes);
    },
    how,
  );
  return {
    reserve: () => deflater.reserve(),
    commit: (bytes) => deflater.commit(bytes),
    end() {
      deflater.finish();
      ring?.end();
      return { digest: `sha256:${hash.digest('hex')}`, sizeBytes };
    },
    [Symbol.dispose]: () => deflater.close(),
  };
}

function fileWriter({ fd, offset }: Out & { readonly kind: 'file' }): (bytes: Uint8Array) => void {
  let at = offset;
  return (bytes) => {
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, at + done);
    at += bytes.length;
  };
}
