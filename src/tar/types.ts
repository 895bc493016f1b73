import type { ByteString } from '../base/bytes.ts';

/** What an entry makes. `hardlink` names another entry; `skipped` makes nothing (a GNU volume label, say). */
export type TarEntryType =
  | 'file'
  | 'directory'
  | 'symlink'
  | 'hardlink'
  | 'character-device'
  | 'block-device'
  | 'fifo'
  | 'skipped';

/** A run of bytes that a sparse file really has; all else of it is holes. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
}

/** One member of an archive, with extended headers (PAX, GNU) already merged in. */
export interface TarEntry {
  readonly type: TarEntryType;
  /** As the archive spells it, cut at a NUL where the field is a header's; not cleaned. */
  readonly name: ByteString;
  /** Target of a symlink or hardlink, uncleaned; else empty. */
  readonly linkName: ByteString;
  /** Permission, set-id and sticky bits: 0 to 0o7777. */
  readonly mode: number;
  /** 0 to 2^32 − 2. */
  readonly uid: number;
  readonly gid: number;
  /** Length of the file that the entry makes (holes included); 0 for everything but files. */
  readonly sizeBytes: number;
  /** Nanoseconds since the epoch, cut downwards. */
  readonly mtimeNs: bigint;
  readonly devMajor: number;
  readonly devMinor: number;
  /** Name to value, both as bytes. */
  readonly xattrs: ReadonlyMap<ByteString, Buffer>;
  /** Of a sparse file: ascending, not overlapping, within sizeBytes; the payload is these runs one after another. */
  readonly sparse?: readonly Extent[];
}

/**
 * What the lexer calls, in the order of the bytes. Views are borrowed: they are valid until the call returns.
 * Law: all bytes given to `raw` and `data`, one after another, are the input.
 */
export interface TarSink {
  /** Bytes that are not the payload of a file: headers, padding, sparse maps, skipped payloads, trailers. */
  raw(bytes: Uint8Array): void;
  /** A member begins; its header bytes went to `raw`. */
  entry(entry: TarEntry): void;
  /** Payload of the file whose `entry` came last. */
  data(bytes: Uint8Array): void;
  /** The payload of that member is complete (also where it is empty). */
  end(): void;
}

/** What bounds the memory that headers may take: more is `corrupt`. */
export interface TarLimits {
  /** Extended header bytes that one member, or all global headers together, may bring. Default 1 MiB. */
  readonly headerBytesMax: number;
  /** Runs of one sparse map. Default 1,000,000. */
  readonly extentsMax: number;
}
