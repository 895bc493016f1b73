import { sha256 } from '../base/crypto.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import { Deflater } from './deflate.ts';
import { Inflater } from './inflate.ts';

/**
 * Uses gzip, zstd and sha256 once each way, and the way of errors, so that a thread which does this before its chroot
 * loads nothing afterwards (facts.md, hazard 5). About 3 ms. `internal` if this Node's codecs do not work.
 */
export function warm(): void {
  const text = Buffer.from('layerstore');
  const expected = hashOf(text);
  for (const kind of ['gzip', 'zstd'] as const) {
    const parts: Buffer[] = [];
    const deflater = new Deflater(kind, (bytes) => parts.push(Buffer.from(bytes)));
    deflater.write(text);
    deflater.finish();
    const packed = Buffer.concat(parts);
    const unpacked = inflate(kind, packed);
    if (hashOf(unpacked) !== expected) throw broken(kind);
    try {
      inflate(kind, packed.subarray(0, -1));
    } catch (error) {
      if (isStorageError(error, 'corrupt')) continue;
      throw error;
    }
    throw broken(kind);
  }
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

function hashOf(bytes: Uint8Array): string {
  return sha256().update(bytes).digest('hex');
}

function broken(kind: string): StorageError {
  return new StorageError('internal', `Cannot use ${kind}: Node ${process.version} does not give back what it packed`);
}
