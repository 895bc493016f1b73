import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import type { DriverName, Finding, LayerId } from '../base/values.ts';
import type { LayerMode } from '../driver/driver.ts';
import type { Fault, Image, StoredLayer } from './types.ts';

// The plain values that go between the database and its callers, and between the two threads.

/** The overlay mode a layer was written under (driver-behaviour U6); empty: it has nothing that depends on one. */
export type OverlayMode = LayerMode;

export interface LayerRow {
  readonly driverId: LayerId;
  readonly kind: 'active' | 'view' | 'committed';
  /** The layer whose directory it lies on. */
  readonly parent?: LayerId;
  readonly overlayMode: OverlayMode;
  /** Both or none; from bytes that we hashed. */
  readonly diffId?: Digest;
  readonly chainId?: Digest;
  /** Relative to the root, as `keptFile`. */
  readonly recordFile?: string;
  readonly keptFile?: string;
  /** Holds: its tar is replayed from the files; else it was kept, because. Absent where there is no tar. */
  readonly exact?: Finding;
  readonly sizeBytes: number;
  readonly tarBytes: number;
  readonly inodes: number;
  readonly createdNs: bigint;
}

/** What `pin` keeps, and the name to give it up by. */
export interface Pinned {
  readonly pin: string;
  readonly layers: LayerRow[];
}

/** A committed layer to register; `begin` announced its driver id and files. */
export interface NewLayer {
  readonly driverId: LayerId;
  /** Driver id of the layer it was made on: in the store, or earlier in the same list. */
  readonly parent?: LayerId;
  readonly overlayMode?: OverlayMode;
  readonly diffId: Digest;
  readonly chainId: Digest;
  readonly recordFile?: string;
  readonly keptFile?: string;
  readonly exact: Finding;
  readonly sizeBytes: number;
  readonly tarBytes: number;
  readonly inodes: number;
}

export interface NewImage {
  /** Of `config`: the caller hashed it. */
  readonly digest: Digest;
  readonly config: Uint8Array;
  /** Of the top layer; absent: the image has none. */
  readonly chainId?: Digest;
  readonly platform: string;
  readonly createdAt?: string;
  readonly manifest?: { readonly digest: Digest; readonly mediaType: string; readonly bytes: Uint8Array };
  /** Full references. */
  readonly names: readonly string[];
}

/** What is true of a compressed blob, because we hashed it and what came out of it. */
export interface BlobRow {
  readonly digest: Digest;
  readonly diffId: Digest;
  readonly sizeBytes: number;
  readonly mediaType: string;
}

export interface ManifestRow {
  readonly digest: Digest;
  readonly image: Digest;
  readonly mediaType: string;
  readonly bytes: Uint8Array;
}

export interface Commit {
  /** Bottom first. */
  readonly layers: readonly NewLayer[];
  readonly images: readonly NewImage[];
  readonly blobs: readonly BlobRow[];
  /** Let go in the same transaction. */
  readonly pin?: string;
  /** Announced and not needed: no longer on disk, or never made. */
  readonly ended?: readonly Making[];
}

export interface Committed {
  /** Driver ids that somebody else's layers made superfluous: remove them and their files, then `end` them. */
  readonly lost: readonly LayerId[];
  /** One for each of `Commit.images`, in order. */
  readonly images: readonly {
    readonly image: Image;
    readonly existed: boolean;
    /** Names that pointed to another image until now. */
    readonly moved: readonly { readonly name: string; readonly from: Digest }[];
  }[];
}

export interface Removal {
  /** One for each argument, in order. */
  readonly results: readonly { readonly untagged: string[]; readonly removed?: Digest }[];
  /** Layers that no name reaches any more, children first: for `removeLayers`. */
  readonly unreached: readonly LayerRow[];
}

/** Something on disk that is no layer's (yet, or any more). */
export interface Making {
  readonly kind: 'layer' | 'file';
  /** A driver id, or a path relative to the root. */
  readonly name: string;
}

/** What a layer has on disk. */
export function makingsOf(
  layer: Pick<LayerRow, 'driverId'> & { readonly recordFile?: string; readonly keptFile?: string },
): Making[] {
  const files = [layer.recordFile, layer.keptFile].filter((file) => file !== undefined);
  return [{ kind: 'layer', name: layer.driverId }, ...files.map((name): Making => ({ kind: 'file', name }))];
}

export interface NewWritable {
  readonly name: string;
  readonly driverId: LayerId;
  readonly base?: { readonly image: Digest } | { readonly chainId: Digest };
  readonly overlayMode?: OverlayMode;
  /** Storage options, kept so that a directory that is missing can be remade. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Default: now. */
  readonly createdNs?: bigint;
}

export interface WritableRow {
  /** Its id. */
  readonly driverId: LayerId;
  readonly name: string;
  readonly image?: Digest;
  /** Of the layer below; absent: it lies on nothing. */
  readonly chainId?: Digest;
  readonly parent?: LayerId;
  readonly overlayMode: OverlayMode;
  readonly settings: Readonly<Record<string, string>>;
  readonly createdNs: bigint;
}

/** How an image is asked for: `text` as typed, the full reference it may be, the digests it may begin. */
export interface ImageKey {
  readonly text: string;
  readonly reference?: string;
  /** `sha256:` and up to 64 hexadecimal characters. */
  readonly prefix?: string;
}

export interface Opened {
  readonly root: ByteString;
  readonly driver: DriverName;
  readonly uuid: string;
}

/** Who makes or removes something: an open database, and its process for people to look for. */
export interface Maker {
  readonly session: string;
  readonly pid: number;
}

/**
 * What the database's thread answers: each entry is one request, done whole in one transaction. `Database` is the way
 * to ask, and documents what differs from here.
 */
export interface Requests {
  /** Opens the store at `root`; undefined where a store may be made. `lockMs`: how long a request blocks while others hold it. */
  open(root: ByteString, options: { readonly create: boolean; readonly lockMs: number }): Opened | undefined;
  /** Makes the store that `open` did not find, unless somebody else has by now. */
  make(driver: DriverName): Opened;
  /** Takes back what `open` made for a store that will not be. */
  abandon(): void;
  close(): void;

  /**
   * On a disk that is nearly full. `to grow`: `resource-exhausted` where only what removing takes is left; so does each
   * request that grows. `to remove`: makes room, in the database and beside it, until `removed`.
   */
  room(wanted: 'to grow' | 'to remove' | 'removed'): void;

  images(): Image[];
  image(key: ImageKey): Image;
  manifests(image: Digest): ManifestRow[];
  blobs(digests: readonly Digest[]): BlobRow[];
  commit(commit: Commit, maker: Maker): Committed;
  tag(key: ImageKey, reference: string): { readonly movedFrom?: Digest };
  removeImages(keys: readonly ImageKey[], force: boolean): Removal;

  layer(driverId: string): LayerRow | undefined;
  layersBelow(driverId: string): LayerRow[];
  imageLayers(key: ImageKey): LayerRow[];
  layersByChain(chainIds: readonly Digest[]): LayerRow[];
  chainsFrom(prefix: string): Digest[];
  storedLayers(key: ImageKey | undefined): StoredLayer[];
  pin(pin: string, chainIds: readonly Digest[], makings: readonly Making[], maker: Maker): LayerRow[];
  unpin(pin: string): void;
  createWritable(writable: NewWritable): WritableRow;
  writable(text: string): WritableRow;
  writables(): WritableRow[];
  removeWritable(driverId: string, maker: Maker): void;

  begin(makings: readonly Making[], maker: Maker): void;
  end(makings: readonly Making[]): void;
  sessions(): string[];
  bury(sessions: readonly string[]): void;
  stale(): Making[];
  unreachable(): LayerRow[];
  layers(): LayerRow[];
  known(driverIds: readonly string[]): string[];
  removeLayers(driverIds: readonly string[], maker: Maker): LayerRow[];
  counts(): { images: number; layers: number; writable: number };
  check(): Fault[];
}
