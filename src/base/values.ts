import type { ByteString } from './bytes.ts';

/** A stream of bytes that may be read once; the reader's pace is the writer's pace. */
export type ByteStream = AsyncIterable<Uint8Array>;

/** Where bytes come from: a path, or themselves. */
export type Bytes = string | ByteStream | ReadableStream<Uint8Array>;

/** What every call takes that can take long. */
export interface Abortable {
  /** An abort rejects with `signal.reason` itself and leaves nothing half made. */
  readonly signal?: AbortSignal;
}

/** What a probe found, and why. A missing capability is a Finding before it is an error. */
export interface Finding {
  readonly holds: boolean;
  readonly because: string;
}

/** A driver's id of a layer: one checked path component (driver-behaviour D2b). */
export type LayerId = string & { readonly __layer: unique symbol };

/** The drivers of this version. */
export type DriverName = 'overlay2' | 'vfs';

/** One path that differs between a layer and what lies below it. Paths begin with `/`. */
export interface Change {
  /** `rename` only where it is asked for: a directory that was moved here with all that is in it. */
  readonly kind: 'add' | 'modify' | 'delete' | 'rename';
  readonly path: ByteString;
  /** Of a rename: where it was in what lies below. */
  readonly from?: ByteString;
}
