import type { ByteString } from '../base/bytes.ts';
import type { IdMaps } from '../base/id-map.ts';
import type { Log } from '../base/log.ts';
import type { Abortable, DriverName, Finding, LayerId } from '../base/values.ts';
import type { Mount } from '../mount/mount.ts';
import type { OverlayFindings } from './overlay/probe.ts';

/** How a driver spells deletions on disk. */
export type WhiteoutStyle = 'none' | 'overlay';

/** What a layer is on disk, for whoever fills or reads it. */
export interface LayerContent {
  readonly kind: 'tree';
  readonly root: ByteString;
  /** The trees below it, top first; empty where the layer is a full copy. */
  readonly lowers: readonly ByteString[];
  readonly whiteouts: WhiteoutStyle;
  /** A free path on the same filesystem, where changes are unpacked before they are done to what the layer shows. */
  readonly staging?: ByteString;
  /** Where the layer is a full copy: when it was made. */
  readonly createdNs?: bigint;
}

/** What is asked of a layer's content. */
export interface ContentOptions {
  /** false: they are left out, none is looked up. Default true. */
  readonly lowers?: boolean;
}

/** What is asked of a layer before it is read, looked up once. */
export interface LayerReading {
  /** Without its lowers. */
  readonly content: LayerContent;
  readonly parent: LayerId | undefined;
  /** As `mounts` of it, read-only. */
  readonly mounts: readonly Mount[];
}

/** How this driver's layers are filled and read back when the given parent is the direct one. */
export interface DiffStyle {
  readonly applyTo: 'content' | 'mounted';
  readonly diffFrom: 'content' | 'mounted';
  readonly because: string;
}

/** What overlayfs may leave in a writable layer beside files and whiteouts; it must be read as it was written. */
export interface LayerMode {
  readonly redirect?: 'on' | 'off';
  readonly metacopy?: 'on' | 'off';
  /** Whether its marks are `user.` attributes. */
  readonly userxattr?: boolean;
  /** Absent where the kernel knows no index. */
  readonly index?: 'on' | 'off';
}

/** What a driver can do here. */
export interface Capabilities {
  /** What a layer is written under now, by the kernel's defaults of the day; empty where nothing depends on them. */
  readonly mode: LayerMode;
  readonly diff: DiffStyle;
  /** Whether layers may be unpacked before those below them are whole. */
  readonly stacks: Finding;
  /** Whether a limit on a layer's size can be enforced here. */
  readonly quota: Finding;
  /** Layers below one writable layer. */
  readonly lowersMax: number;
}

/** Where a layer's directories are (Docker's UpperDir, LowerDir, WorkDir, MergedDir). */
export interface LayerPaths {
  readonly upper: ByteString;
  /** Top first. */
  readonly lower: readonly ByteString[];
  readonly work?: ByteString;
  readonly merged: ByteString;
}

/** How a layer is made. */
export interface CreateOptions extends Abortable {
  readonly parent?: LayerId;
  readonly writable: boolean;
  /** `key=value` storage options, as Docker's `--storage-opt`. */
  readonly settings?: Readonly<Record<string, string>>;
}

/** Which mount of a layer is meant. */
export interface PlanOptions {
  readonly readonly?: boolean;
  /** SELinux label; the first one of a mount wins. */
  readonly label?: string;
  /** What the layer was written under. Default: what the kernel's defaults are now. */
  readonly mode?: LayerMode;
}

/** How a layer is mounted. */
export interface MountOptions extends PlanOptions, Abortable {
  /** A hold that outlives this process, under that name, until `release(id, name)`; without: disposal or death ends it. */
  readonly holdName?: string;
}

/** How a layer is removed. */
export interface RemoveOptions {
  /** true: its tree is only set aside, which takes no time; `sweep` deletes it. */
  readonly later?: boolean;
}

/** How trees that are aside are deleted. */
export interface SweepOptions extends Abortable {
  /** What other processes are deleting right now is waited for (default), or left to them: one is enough. */
  readonly others?: 'wait' | 'leave';
}

/** A counted mount; the last disposal unmounts. Disposing rejects with `busy` while something uses it, and it stays. */
export interface Mounted extends AsyncDisposable {
  /** An ordinary directory until the disposal. */
  readonly path: ByteString;
  [Symbol.asyncDispose](): Promise<void>;
}

/** Knows directories and mounts; knows no tar, no image. */
export interface LayerDriver extends AsyncDisposable {
  readonly name: DriverName;
  readonly home: ByteString;
  readonly idMaps: IdMaps;
  /** What it can do here, found by trying once. */
  capabilities(): Promise<Capabilities>;
  /** On failure nothing is left. */
  create(id: LayerId, options: CreateOptions): Promise<void>;
  /**
   * Absent is success. What is mounted is unmounted first; `busy`, with nothing removed, while a live process holds the
   * layer or the kernel says that its mount is in use.
   */
  remove(id: LayerId, options?: RemoveOptions): Promise<void>;
  /** Deletes the trees that removals set aside, any process's. */
  sweep(options?: SweepOptions): Promise<void>;
  /** Whether the home has such a layer. */
  has(id: LayerId): Promise<boolean>;
  /** All layers of the home. */
  list(): Promise<LayerId[]>;
  /** The layer it was made on, if any. */
  parent(id: LayerId): Promise<LayerId | undefined>;
  /** Where its directories are. */
  metadata(id: LayerId): Promise<LayerPaths>;
  /** Ordered pairs, as `docker info` shows them. */
  status(): Promise<readonly (readonly [string, string])[]>;
  /** What it is on disk. */
  content(id: LayerId, options?: ContentOptions): Promise<LayerContent>;
  /** As `content`, `parent` and `mounts`. */
  reading(id: LayerId, options?: Pick<PlanOptions, 'mode'>): Promise<LayerReading>;
  /** From now on read-only and durable; several at once cost one sync. */
  seal(ids: readonly LayerId[], options?: SyncOptions): Promise<void>;
  /** The plan; touches nothing. */
  mounts(id: LayerId, options?: PlanOptions): Promise<readonly Mount[]>;
  /** The deed. */
  mount(id: LayerId, options?: MountOptions): Promise<Mounted>;
  /**
   * Lets go of one hold of that name, or of a mount that was found without any hold; answers whether there was one.
   * The last one unmounts: `busy` with the holders named while it is in use, and the hold stays. `detach`: as
   * Docker, a busy mount is detached.
   */
  release(id: LayerId, holdName: string, options?: { readonly detach?: boolean }): Promise<boolean>;
  /** Whether it is mounted now, by anyone. */
  isMounted(id: LayerId): Promise<boolean>;
  /** Unmounts what this driver mounted below its home. */
  cleanup(): Promise<void>;
}

export interface DriverSettings {
  readonly home: ByteString;
  /** Where holds and locks live: gone with a reboot. */
  readonly run: ByteString;
  /** `key=value`, the driver's own prefix only. */
  readonly options: readonly string[];
  readonly idMaps: IdMaps;
  readonly log: Log;
  /** The calls that may block, done in a thread. */
  readonly perform: Performer;
  /** Called at opening where removed trees are still to be deleted, which is then the caller's (`sweep`). Absent: they are deleted. */
  readonly leftAside?: () => void;
  /** What choosing this driver for the home has found, a moment ago. */
  readonly found?: OverlayFindings;
}

/** Does blocking work in a thread of its own, so that the caller's never stops. */
export interface Performer {
  /** Performs the plan on `target`. */
  mount(plan: Mount, target: ByteString): Promise<void>;
  /** Answers false when it is busy. */
  unmount(target: ByteString, options: { readonly detach: boolean }): Promise<boolean>;
  /** Removes a tree; absent is success. */
  removeTree(path: ByteString, options?: Abortable): Promise<void>;
  /** Copies a tree into an empty directory (vfs). */
  copyTree(from: ByteString, to: ByteString, options?: Abortable): Promise<void>;
  /** Writes the filesystem of `path` back. The kernel does that to its end: who gives up no longer waits for it. */
  sync(path: ByteString, options?: SyncOptions): Promise<void>;
}

/** How something is made durable. */
export interface SyncOptions extends Abortable {
  /**
   * A directory of the same filesystem that was opened before what is to be durable was written. Without it, failures
   * that somebody else was told of are not seen.
   */
  readonly by?: { readonly fd: number };
}
