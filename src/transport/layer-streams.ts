import { read } from 'node:fs';
import { promisify } from 'node:util';
import { type Hasher, sha256 } from '../base/crypto.ts';
import type { Digest } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import type { Abortable, ByteStream } from '../base/values.ts';
import { Inflater } from '../codec/inflate.ts';
import { type Compression, SNIFF_BYTES, sniff } from '../codec/sniff.ts';
import { corrupt } from '../oci/json.ts';
import type { ArchivedLayer, BlobSource } from './source.ts';

// Blobs as streams, for whoever has no threads: at the reader's pace, and other work goes on between two pieces.

const READ_BYTES = 256 << 10;
/** Each piece is a way to another thread and back. */
const BLOB_READ_BYTES = 1 << 20;
/** Input for one go of the inflater: at zlib's highest ratio, 1032 to 1, its output is 16 MiB. */
const INFLATE_BYTES = 16 << 10;

/** The bytes of a blob. */
export async function* blobBytes(blob: BlobSource, { signal }: Abortable = {}): ByteStream {
  for (let at = 0; at < blob.length; ) {
    signal?.throwIfAborted();
    const room = Buffer.allocUnsafe(Math.min(BLOB_READ_BYTES, blob.length - at));
    const { bytesRead } = await promisify(read)(blob.fd, room, 0, room.length, blob.offset + at);
    if (bytesRead === 0) throw corrupt('the blob', `it ends after ${at} of ${blob.length} bytes`);
    yield room.subarray(0, bytesRead);
    at += bytesRead;
  }
}

/**
 * A layer as the archive holds it, perhaps compressed. Where the archive claims a digest for it, what is not of that
 * digest is `corrupt` at the end.
 */
export async function* layerBlob(layer: ArchivedLayer, options: Abortable = {}): ByteStream {
  yield* digested(blobBytes(layer.blob, options), layer.digest, 'the blob of a layer');
}

/** A layer's tar, unpacked. What is not of its diff id, or not of the digest that is claimed, is `corrupt` at the end. */
export async function* layerTar(layer: ArchivedLayer, options: Abortable = {}): ByteStream {
  yield* digested(unpacked(layerBlob(layer, options)), layer.diffId, 'the content of a layer');
}

/** The compression of a blob, by content. */
export async function compressionOf({ fd, offset, length }: BlobSource): Promise<Compression> {
  const head = Buffer.alloc(Math.min(SNIFF_BYTES, length));
  const { bytesRead } = await promisify(read)(fd, head, 0, head.length, offset);
  return sniff(head.subarray(0, bytesRead));
}

/** `source` without its compression, which its first bytes tell. */
export async function* unpacked(source: ByteStream): ByteStream {
  let head: Uint8Array | undefined = new Uint8Array(0);
  const parts: Uint8Array[] = [];
  let inflater: Inflater | undefined;
  const begin = (bytes: Uint8Array): void => {
    head = undefined;
    const kind = sniff(bytes);
    const room = kind === 'none' ? undefined : Buffer.allocUnsafe(READ_BYTES);
    if (room === undefined) return;
    const commit = (count: number): void => void parts.push(Uint8Array.from(room.subarray(0, count)));
    inflater = new Inflater(kind, { reserve: () => room, commit });
  };
  try {
    for await (const chunk of source) {
      let bytes = chunk;
      if (head !== undefined) {
        bytes = head.length === 0 ? chunk : Buffer.concat([head, chunk]);
        if (bytes.length < SNIFF_BYTES) {
          head = bytes;
          continue;
        }
        begin(bytes);
      }
      if (inflater === undefined) {
        yield bytes;
        continue;
      }
      for (let at = 0; at < bytes.length; at += INFLATE_BYTES) {
        inflater.write(bytes.subarray(at, at + INFLATE_BYTES));
        yield* parts.splice(0);
      }
    }
    if (head !== undefined) yield head; // shorter than any compressed stream
    inflater?.finish();
    yield* parts;
  } finally {
    inflater?.close();
  }
}

/** `source`; at its end `corrupt` where it is not of the digest that is expected, if one is. */
export async function* digested(source: ByteStream, expected: Digest | undefined, what: string): ByteStream {
  const hash: Hasher | undefined = expected === undefined ? undefined : sha256();
  for await (const chunk of source) {
    hash?.update(chunk);
    yield chunk;
  }
  if (hash === undefined || expected === undefined) return;
  const actual: Digest = `sha256:${hash.digest('hex')}`;
  if (actual === expected) return;
  throw new StorageError('corrupt', `Cannot read ${what}: it is claimed to be ${expected} and is ${actual}`, {
    expected,
    actual,
  });
}
