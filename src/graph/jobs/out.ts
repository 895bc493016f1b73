import { writeSync } from 'node:fs';
import { type RingMemory, RingWriter } from '../../base/ring.ts';

/** Where a job's bytes go: through a ring to another thread, or straight into an open file. */
export type Out =
  | { readonly kind: 'ring'; readonly ring: RingMemory }
  | { readonly kind: 'file'; readonly fd: number /** Of the first byte. */; readonly offset: number };

/** Room to fill, piece by piece. */
export interface OutWriter {
  /** At least one byte; valid until `commit`. */
  reserve(): Uint8Array;
  commit(bytes: number): void;
  /** Nothing more will come. */
  end(): void;
}

const PIECE_BYTES = 256 * 1024;

/** The writer of `out`; undefined: the bytes are dropped. */
export function writerOf(out: Out | undefined): OutWriter {
  if (out?.kind === 'ring') return new RingWriter(out.ring);
  const room = Buffer.allocUnsafe(PIECE_BYTES);
  let at = out?.offset ?? 0;
  return {
    reserve: () => room,
    commit(bytes) {
      if (out === undefined) return;
      for (let done = 0; done < bytes; ) done += writeSync(out.fd, room, done, bytes - done, at + done);
      at += bytes;
    },
    end() {},
  };
}
