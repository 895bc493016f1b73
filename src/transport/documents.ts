import { readSync } from 'node:fs';
import { sha256 } from '../base/crypto.ts';
import type { Digest } from '../base/digest.ts';
import { hexOf } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import { corrupt } from '../oci/json.ts';
import type { BlobSource, Members } from './source.ts';

/** All documents of one archive together: many images that share nothing, each with a small config, stay far below. */
const DOCUMENTS_BYTES_MAX = 64 << 20;

/** What a blob is wanted for, and what its descriptor claims. */
export interface Claim {
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/** Thrown where an archive lacks a blob that it refers to, so that its other half may be tried. */
export class MissingBlob extends StorageError {}

/** The place of a blob in a layout. */
export function blobName(digest: Digest): string {
  return `blobs/sha256/${hexOf(digest)}`;
}

/** Reads the documents of one archive: each once, each verified, all together bounded. */
export class Documents {
  readonly #members: Members;
  readonly #blobs = new Map<Digest, Buffer>();
  #bytesLeft: number = DOCUMENTS_BYTES_MAX;

  constructor(members: Members) {
    this.#members = members;
  }

  /** Whether the archive has a blob of that digest; its content is not looked at. */
  holds(digest: Digest): boolean {
    return this.#members.find(blobName(digest)) !== undefined;
  }

  /** Where the blob is that `what` refers to. Missing or of another size than claimed is `corrupt`. */
  blob(claim: Claim, what: string): BlobSource {
    const blob = this.#members.find(blobName(claim.digest));
    if (blob === undefined) {
      throw new MissingBlob('corrupt', `Cannot read ${what}: the archive does not hold ${blobName(claim.digest)}`);
    }
    if (blob.length === claim.sizeBytes) return blob;
    throw new StorageError(
      'corrupt',
      `Cannot read ${what}: ${blobName(claim.digest)} is ${blob.length} bytes, its descriptor says ${claim.sizeBytes}`,
      { expected: String(claim.sizeBytes), actual: String(blob.length) },
    );
  }

  /** The bytes of a document that has a descriptor, compared with it. Treat them as read-only: they are shared. */
  verified(claim: Claim, what: string, bytesMax: number): Buffer {
    const blob = this.blob(claim, what);
    const known = this.#blobs.get(claim.digest);
    if (known !== undefined) return known;
    const bytes = this.#read(blob, what, bytesMax);
    const actual: Digest = `sha256:${sha256().update(bytes).digest('hex')}`;
    if (actual !== claim.digest) {
      throw new StorageError(
        'corrupt',
        `Cannot read ${what}: its content has the digest ${actual}, not ${claim.digest}`,
        {
          expected: claim.digest,
          actual,
        },
      );
    }
    this.#blobs.set(claim.digest, bytes);
    return bytes;
  }

  /** The bytes of the member `name`, or undefined where there is none. */
  named(name: string, what: string, bytesMax: number): Buffer | undefined {
    const blob = this.#members.find(name);
    return blob === undefined ? undefined : this.#read(blob, what, bytesMax);
  }

  #read(blob: BlobSource, what: string, bytesMax: number): Buffer {
    if (blob.length > bytesMax) throw corrupt(what, `it is ${blob.length} bytes, at most ${bytesMax} are read`);
    this.#bytesLeft -= blob.length;
    if (this.#bytesLeft < 0) throw corrupt(what, `all documents together are more than ${DOCUMENTS_BYTES_MAX} bytes`);
    return readBlob(blob, what);
  }
}

/** All bytes of `blob`; a file that ends before is `corrupt`. */
export function readBlob(blob: BlobSource, what: string): Buffer {
  const bytes = Buffer.allocUnsafe(blob.length);
  for (let done = 0; done < bytes.length; ) {
    const count = readSync(blob.fd, bytes, done, bytes.length - done, blob.offset + done);
    if (count === 0) throw corrupt(what, `it ends after ${done} of ${blob.length} bytes`);
    done += count;
  }
  return bytes;
}
