import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import type { Log } from '../base/log.ts';
import type { Abortable, ByteStream, Bytes, Change, DriverName, Finding } from '../base/values.ts';
import type { Mounted } from '../driver/driver.ts';
import type { Lending, Noting } from '../graph/apply.ts';
import type { ThreadsAhead } from '../graph/threads.ts';

export type { Bytes } from '../base/values.ts';

/** What a long call says of itself; at most ten a second, and one at the end of each step. */
export interface Progress {
  readonly step: 'read' | 'unpack' | 'settle' | 'pack';
  /** Digest of the layer (its diff id) that the step works on. */
  readonly layer?: string;
  readonly bytesDone: number;
  readonly bytesTotal?: number;
}

/** What a call takes that can take long and tells how far it is. */
export interface Progressing extends Abortable {
  readonly onProgress?: (progress: Progress) => void;
}

/** Which store to open, and how. */
export interface StoreOptions extends Abortable {
  /** Made on first use. Bytes where its path is not UTF-8. */
  readonly root: string | Uint8Array;
  /** Taken or refused with the reason. Absent: the one whose layers are there, else the first that works. */
  readonly driver?: DriverName;
  /** `key=value`, for the driver. */
  readonly driverOptions?: readonly string[];
  readonly log?: Log;
  /** Threads that unpack layers; default: one for each core. 1: each layer in one thread, which leaves a core free. */
  readonly threads?: number;
  /** false: never make a store where there is none (`not-found` instead). Default true. */
  readonly create?: boolean;
  /**
   * While other processes hold the database: a call waits `ms` milliseconds (default 10,000) before it is `busy`, or
   * until `signal` aborts. Calls heed their own signal too.
   */
  readonly patience?: { readonly ms?: number; readonly signal?: AbortSignal };
  /** true: no thread is started for the database, it is asked in the caller's own. For programs that do one thing and end. */
  readonly brief?: boolean;
  /** Threads that are started at once, beside opening; the others when they are needed. */
  readonly ahead?: ThreadsAhead;
  /**
   * Called at closing where trees of removed layers are still to be deleted: the caller sees to it that some process
   * calls `upkeep.sweep()`. Absent: a thread of this process deletes them while the store is open.
   */
  readonly leftAside?: () => void | Promise<void>;
}

/** A store: images and layers under one root, shared by any number of processes. */
export interface Store extends AsyncDisposable {
  /** Absolute, without symlinks; for people: U+FFFD where it is not UTF-8. */
  readonly root: string;
  /** The same, byte for byte. */
  readonly rootPath: ByteString;
  readonly driver: {
    readonly name: DriverName;
    readonly home: string;
    readonly because: string;
    /** Ordered pairs, as `docker info` shows them. */
    status(): Promise<readonly (readonly [string, string])[]>;
  };
  readonly images: Images;
  readonly layers: Layers;
  readonly upkeep: Upkeep;
}

/** An image as the store knows it; immutable. */
export interface Image {
  /** Digest of its config: its identity. */
  readonly id: Digest;
  /** Full references that point to it now, sorted. */
  readonly names: readonly string[];
  /** Digest of the manifest it came with, if it came with one. */
  readonly manifestDigest?: Digest;
  readonly config: Uint8Array;
  /** Bottom first. */
  readonly diffIds: readonly Digest[];
  readonly chainId?: Digest;
  readonly platform: string;
  readonly createdAt?: string;
  /** Sum of its layers' own sizes. */
  readonly sizeBytes: number;
}

/** What to take of an archive, and how much of it to trust. */
export interface LoadOptions extends Progressing {
  /** `os/arch[/variant]`; default: this machine's. */
  readonly platform?: string;
  /** What tells a layer from a bomb: bytes unpacked before the ratio is looked at (1 GiB), and the ratio (100). */
  readonly limits?: { readonly freeBytes?: number; readonly ratioMax?: number };
}

/** An image as `load` or `commit` made it. */
export interface LoadedImage extends Image {
  /** Names that pointed to another image until now. */
  readonly moved: readonly { readonly name: string; readonly from: Digest }[];
  readonly existed: boolean;
  /** What the archive had that is not in the tree (sockets, refused attributes…), each said once. */
  readonly notes: readonly string[];
}

/** How an archive is written. */
export interface SaveOptions extends Progressing, Lending {
  readonly format?: 'oci' | 'docker';
  /** Seconds since the epoch for the archive's members. Default 0. */
  readonly epochSeconds?: number;
  /**
   * What layers are compressed with, for OCI forms. Default: none. The blobs are made in the store's `tmp` before the
   * first byte goes out, which takes as much room there as they are long.
   */
  readonly compress?: 'none' | 'gzip' | 'zstd';
}

/** The images of a store. Where one is asked for, its reference or the beginning of its id will do. */
export interface Images {
  /** From a path (a file or an OCI layout directory) or bytes. */
  load(source: Bytes, options?: LoadOptions): Promise<LoadedImage[]>;
  /** The archive as bytes; what came in goes out byte for byte, layer by layer. */
  save(images: readonly (Image | string)[], options?: SaveOptions): ByteStream;
  /**
   * As `save`, into an open empty file (a seekable one), written at several places at once; the descriptor stays the
   * caller's. Twice as fast with two cores.
   */
  saveTo(images: readonly (Image | string)[], fd: number, options?: SaveOptions): Promise<void>;
  /** An OCI layout into an empty or absent directory. */
  saveDirectory(images: readonly (Image | string)[], directory: string, options?: SaveOptions): Promise<void>;
  /** All images, the newest first. */
  list(): Promise<Image[]>;
  /** By reference, or by an id's unambiguous prefix (with or without `sha256:`). `not-found` otherwise. */
  get(name: string): Promise<Image>;
  /** Answers the image the name pointed to before, if another. */
  tag(image: Image | string, reference: string): Promise<{ readonly movedFrom?: Digest }>;
  /** Takes a name away, and the image with its last name; by id: all names only with `force`. */
  remove(
    name: string,
    options?: { readonly force?: boolean },
  ): Promise<{ readonly untagged: string[]; readonly removed?: Digest }>;
  /** As `remove` for several: refused for one, nothing is taken away. In their order. */
  removeAll(
    names: readonly string[],
    options?: { readonly force?: boolean },
  ): Promise<readonly { readonly untagged: string[]; readonly removed?: Digest }[]>;
  /** How it was made, newest first, each step with the layer that it made. */
  history(image: Image | string): Promise<readonly HistoryEntry[]>;
  /** One flattened tar of an image or a writable layer. */
  export(name: string, options?: Progressing & Lending & Noting): ByteStream;
}

/** One step of an image's history. */
export interface HistoryEntry {
  readonly createdAt?: string;
  readonly createdBy?: string;
  readonly comment?: string;
  readonly emptyLayer: boolean;
  readonly diffId?: Digest;
  readonly sizeBytes?: number;
}

/** A layer that belongs to images. */
export interface StoredLayer {
  readonly diffId: Digest;
  readonly chainId: Digest;
  readonly parentChainId?: Digest;
  /** Sum of the sizes of its files. */
  readonly sizeBytes: number;
  readonly tarBytes: number;
  /** How its tar is given back: replayed from the files, or a kept copy, and why. */
  readonly exact: Finding;
  /** References (or image ids where nameless) and writable layers on it. */
  readonly usedBy: readonly string[];
}

/** How a writable layer is made. */
export interface CreateLayerOptions extends Abortable {
  /** Default: a random one. */
  readonly name?: string;
  readonly settings?: Readonly<Record<string, string>>;
}

/** What the new image says of itself. */
export interface CommitOptions extends Progressing {
  readonly message?: string;
  readonly author?: string;
  /** Dockerfile instructions: `CMD ["sh"]`, `ENV a=b`… */
  readonly changes?: readonly string[];
  /** RFC 3339; default: now. */
  readonly createdAt?: string;
}

/** A layer that may be written. Disposing only lets go of this handle. */
export interface WritableLayer extends AsyncDisposable {
  readonly id: string;
  readonly name: string;
  /** The image it was made on, if any. */
  readonly image?: Digest;
  /** Of the layers below it, if any. */
  readonly chainId?: Digest;
  readonly createdAt: string;
  /** Mounts it, or joins the mount that is there. `hold`: a named hold that outlives this process. */
  mount(options?: Abortable & { readonly hold?: boolean }): Promise<Mounted>;
  /** Lets go of the named hold; false when there was none. */
  unmount(): Promise<boolean>;
  /** Whether it is mounted now, by anyone. */
  isMounted(): Promise<boolean>;
  /**
   * What differs from the image, sorted by path bytes; `docker` rendering (parents listed), or `core`. `renames`: a
   * directory that was moved is one `rename`, where the layer tells of it (it was written under `redirect_dir`).
   */
  changes(
    options?: Abortable & { readonly rendering?: 'docker' | 'core'; readonly renames?: 'collapse' },
  ): AsyncIterable<Change>;
  /** Which differ `changes` (with `renames`, if given) and `diff` use, and why. */
  explain(options?: { readonly renames?: 'collapse' }): Promise<string>;
  /** The layer tar, perhaps compressed. */
  diff(
    options?: Progressing &
      Lending &
      Noting & { readonly xattrs?: 'all' | 'docker'; readonly compress?: 'none' | 'gzip' | 'zstd' },
  ): ByteStream;
  /** Bytes of the files that it adds or changes. */
  sizeBytes(): Promise<number>;
  /** A new image; this layer stays writable. */
  commit(reference: string | undefined, options?: CommitOptions): Promise<LoadedImage>;
  /** Deletes it; `busy` while it is mounted. `force` lets go of named holds first. */
  remove(options?: { readonly force?: boolean }): Promise<void>;
}

/** The layers of a store: writable ones, and those of images. */
export interface Layers {
  /** A writable layer on an image (or its reference, or the beginning of a chain id), or on nothing. */
  create(base?: Image | string, options?: CreateLayerOptions): Promise<WritableLayer>;
  /** By name, or by an id's unambiguous prefix. */
  get(name: string): Promise<WritableLayer>;
  /** All writable layers, by name. */
  list(): Promise<WritableLayer[]>;
  /** As `remove` of the layer that `get` gives. */
  remove(name: string, options?: { readonly force?: boolean }): Promise<void>;
  /** Layers of images, bottom first; of one image, or of all. */
  stored(image?: Image | string): Promise<StoredLayer[]>;
  /** A read-only view of an image's tree, counted like any mount. */
  view(image: Image | string, options?: Abortable & { readonly hold?: boolean }): Promise<Mounted>;
  /**
   * Lets go of what is mounted at the path that `mount` or `view` gave, with `hold`; false when only others hold it,
   * `not-found` where nothing of this store is mounted.
   */
  releaseAt(path: string): Promise<boolean>;
  /** Lets go of the named view; false when there was none. */
  releaseView(image: Image | string): Promise<boolean>;
}

/** What `gc` removed, or would remove. */
export interface GcReport {
  readonly layers: readonly { readonly id: string; readonly diffId?: Digest; readonly sizeBytes: number }[];
  readonly files: readonly string[];
  readonly freedBytes: number;
}

/** Something that `check` found wrong. */
export interface Fault {
  readonly what: string;
  readonly where: string;
  readonly remedy: string;
}

/** What keeps a store in order. */
export interface Upkeep {
  /**
   * Removes what no name reaches; `dryRun` only tells. The trees of removed layers, of others' too, are deleted
   * afterwards in the background; `wait` waits for that.
   */
  gc(options?: Abortable & { readonly dryRun?: boolean; readonly wait?: boolean }): Promise<GcReport>;
  /** Deletes the trees of removed layers. What another process is deleting right now is left to it, or waited for. */
  sweep(options?: Abortable & { readonly wait?: boolean }): Promise<void>;
  /** Faults found; `deep` also compares every tree with its record, and replays every layer against its diff id. */
  check(options?: Progressing & { readonly deep?: boolean }): Promise<readonly Fault[]>;
  /** How much there is of everything. */
  counts(): Promise<{ readonly images: number; readonly layers: number; readonly writable: number }>;
}
