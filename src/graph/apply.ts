import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import type { Abortable, Finding, LayerId } from '../base/values.ts';
import type { InflateLimits } from '../codec/inflate.ts';
import type { Compression } from '../codec/sniff.ts';

// What is asked and told where a layer is filled from a tar.

/** Told of bytes done, at most ten times a second. */
export interface Watched extends Abortable {
  readonly onBytes?: (bytesDone: number) => void;
}

/** How bytes are handed out. */
export interface Lending {
  /**
   * true: each piece is valid until the next is asked for, and is not copied: for who only passes it on. Copies are
   * collected when the engine likes, which may be some hundred megabytes later. Default false.
   */
  readonly lend?: boolean;
}

/** Who is told what an archive cannot hold. */
export interface Noting {
  /** Called after the last byte, once for each such thing (a socket, say): why, and its path. Up to 100 times. */
  readonly onNote?: (note: string) => void;
}

/** How a layer is filled. */
export interface ApplyOptions extends Watched {
  /** The layer that the archive was made against. Default: the layer's own parent. */
  readonly parent?: LayerId;
  /** A new file for the split record. */
  readonly record?: ByteString;
  readonly limits?: Partial<InflateLimits>;
  /** true: the layer was just made, by a caller who alone knows it. A full copy is then not searched for entries. */
  readonly fresh?: boolean;
  /** true: inflate and unpack in one thread, however large. Where others have work for the second one. */
  readonly oneThread?: boolean;
}

/** What became of a tar that was unpacked into a layer. */
export interface ApplyReport {
  readonly diffId: Digest;
  readonly sizeBytes: number;
  readonly tarBytes: number;
  readonly entries: number;
  readonly exact: Finding;
  readonly notes: readonly string[];
  /** Of the bytes as they came, where they came from a file. */
  readonly blobDigest?: Digest;
  readonly compression?: Compression;
}

/** What became of what was packed and unpacked at once. */
export interface TransferReport extends ApplyReport {
  /**
   * Ends when the filesystem was written back as far as was begun, and rejects where any of it could not be: the kernel
   * may tell so once, so whoever seals the layer awaits this, too.
   */
  readonly writtenBack: Promise<void>;
}

/** A layer whose own entries are in place. */
export interface Unpacked {
  readonly diffId: Digest;
  /** Absent where the tar came as a stream. */
  readonly blobDigest?: Digest | undefined;
  /** The second half. The layers below must be settled. */
  settle(): Promise<ApplyReport>;
}

/** How far a chain of layers was settled. */
export interface SettledChain {
  readonly reports: readonly ApplyReport[];
  /** Why the next one could not be. */
  readonly failure?: { readonly error: unknown };
}
