import { isStorageError, StorageError } from '../base/errors.ts';
import { Deflater } from './deflate.ts';
import { Inflater } from './inflate.ts';

/** What of Node's own code is loaded when it is first used. */
export type Codec = 'gzip' | 'zstd';

export const CODECS: readonly Codec[] = ['gzip', 'zstd'];

const TEXT = 'layerstore';

/**
 * Uses a codec once each way, and the way of errors, so that a thread which does this before its chroot loads nothing
 * afterwards (facts.md, hazard 5). 1 to 2 ms. `internal` if this Node's does not work.
 */
export function warm(codec: Codec): void {
  const text = Buffer.from(TEXT);
  const parts: Buffer[] = [];
  const deflater = new Deflater(codec, (bytes) => parts.push(Buffer.from(bytes)));
  deflater.write(text);
  deflater.finish();
  const packed = Buffer.concat(parts);
  if (!inflate(codec, packed).equals(text)) throw broken(codec);
  try {
    inflate(codec, packed.subarray(0, -1));
  } catch (error) {
    if (isStorageError(error, 'corrupt')) return;
    throw error;
  }
  throw broken(codec);
}

function inflate(kind: 'gzip' | 'zstd', packed: Uint8Array): Buffer {
  const room = Buffer.alloc(64);
  let length = 0;
  const sink = {
    reserve: () => room.subarray(length),
    commit: (bytes: number) => {
      length += bytes;
    },
  };
  const inflater = new Inflater(kind, sink);
  inflater.write(packed);
  inflater.finish();
  return room.subarray(0, length);
}

function broken(codec: Codec): StorageError {
  const text = `Cannot use ${codec}: Node ${process.version} does not give what it should`;
  return new StorageError('internal', text);
}
