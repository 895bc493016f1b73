import type { Digest } from '../base/digest.ts';
import type { Platform } from '../oci/platform.ts';

/** Where bytes lie: a run of an ordinary file that is open for reading. Whoever opened it closes it. */
export interface BlobSource {
  readonly fd: number;
  readonly offset: number;
  readonly length: number;
}

/** A layer as an archive holds it. */
export interface ArchivedLayer {
  /** Perhaps compressed; not yet compared with any digest. */
  readonly blob: BlobSource;
  /** What the config claims of the uncompressed tar. */
  readonly diffId: Digest;
  /** What the manifest claims of the blob; absent in docker archives, which say nothing. */
  readonly digest?: Digest;
  /** What the manifest claims; the content decides. */
  readonly mediaType?: string;
}

/** One image of an archive. Its documents are verified against their digests and sizes, its layers are not. */
export interface ArchivedImage {
  /** Full references, in the archive's order; empty where it gives none. */
  readonly names: readonly string[];
  /** What a user should know of how the archive names it. */
  readonly notes?: readonly string[];
  /** A layout's name for it that is a tag alone, and so no reference. */
  readonly tag?: string;
  readonly platform?: Platform;
  /** Absent in docker archives. */
  readonly manifest?: { readonly bytes: Buffer; readonly digest: Digest; readonly mediaType: string };
  readonly config: { readonly bytes: Buffer; readonly digest: Digest };
  /** Base first; as many as the config has diff ids. */
  readonly layers: readonly ArchivedLayer[];
}

/** Which images to take of an archive. */
export interface ImagesOptions {
  /** What to take from an index. Default: this machine's, or the only one that is held. */
  readonly platform?: Platform;
}

/** An open archive or layout directory. Disposal closes what `openArchive` opened; the blobs end with it. */
export interface ImageArchive extends AsyncDisposable {
  /** Reads and verifies the documents. An asked platform that is absent is `not-found`, what is broken `corrupt`. */
  images(options?: ImagesOptions): readonly ArchivedImage[];
}

/** Ordinary files by their cleaned names: what a layout or a docker archive is read from. */
export interface Members {
  /** The ordinary file of that name, undefined where there is none; `corrupt` where it is anything else. */
  find(name: string): BlobSource | undefined;
}
