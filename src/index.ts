import { toBytes } from './base/bytes.ts';
import { fromSystem, isStorageError, StorageError } from './base/errors.ts';
import { expect, PATH } from './base/kinds.ts';
import type { Change } from './base/values.ts';
import { absoluteBytes } from './base/working-directory.ts';
import type { Noting } from './graph/apply.ts';
import type { Diagnosis } from './graph/doctor.ts';
import type { OpenDriverOptions } from './graph/open-driver.ts';
import type { OverlayDiffOptions, OverlayListOptions } from './graph/overlay-diff.ts';
import { DRIVER_OPTIONS, OVERLAY_DIFF } from './graph/signatures.ts';
import type { StorageDriver } from './graph/storage-driver.ts';
import type { RawMount } from './mount/raw.ts';
import { STORE_OPTIONS } from './store/signatures.ts';
import type { Store, StoreOptions } from './store/types.ts';

export { type ByteString, fromBytes, fromText, quote, toBytes, toText, toTextExact } from './base/bytes.ts';
export { asDigest, type Digest } from './base/digest.ts';
export { type ErrorCode, type ErrorFacts, isStorageError, StorageError } from './base/errors.ts';
export type { IdMaps, IdRange } from './base/id-map.ts';
export type { Log } from './base/log.ts';
export type { Abortable, ByteStream, Change, DriverName, Finding, LayerId } from './base/values.ts';
export type { InflateLimits } from './codec/inflate.ts';
export type { Compression } from './codec/sniff.ts';
export type { TreeFault } from './diff/audit.ts';
export type { Rendering } from './diff/types.ts';
export type {
  Capabilities,
  ContentOptions,
  CreateOptions,
  DiffStyle,
  LayerContent,
  LayerDriver,
  LayerMode,
  LayerPaths,
  LayerReading,
  Mounted,
  MountOptions,
  PlanOptions,
  RemoveOptions,
  SweepOptions,
  SyncOptions,
  WhiteoutStyle,
} from './driver/driver.ts';
export type { Mount } from './mount/mount.ts';
export { overlayLayers, type RawMount, upperDirectory } from './mount/raw.ts';
export type * from './store/types.ts';

/**
 * Opens a store, made on first use. Loading this module starts nothing; everything that needs Linux is loaded here.
 * @example await using store = await openStore({ root: '/var/lib/app' });
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  requireMachine('open a store');
  expect('openStore', [['options', STORE_OPTIONS]], [options]);
  const given = { ...options, root: toBytes(absoluteBytes(options.root)) }; // the caller may change directory from here on
  // A thread takes as long to start as all else to load.
  const { openThreads } = await loaded('open a store', import('./graph/threads.ts'));
  const opening = openThreads(given.threads, given.ahead);
  try {
    const [{ openStore: open }, threads] = await Promise.all([
      loaded('open a store', import('./store/open.ts')),
      opening,
    ]);
    return await open(given, threads);
  } catch (error) {
    await opening.then(
      (threads) => threads[Symbol.asyncDispose](),
      () => {}, // it is what failed
    );
    throw error;
  }
}

export type {
  ApplyOptions,
  ApplyReport,
  Lending,
  Noting,
  SettledChain,
  TransferReport,
  Unpacked,
  Watched,
} from './graph/apply.ts';
export type { CompressOptions } from './graph/crew.ts';
export type { Diagnosis } from './graph/doctor.ts';
export type { AuditAnswer } from './graph/jobs/audit.ts';
export type { FileRange } from './graph/jobs/inflate.ts';
export type { PackedBlob } from './graph/jobs/out.ts';
export type { LayerFile, LayerFiles } from './graph/layer-files.ts';
export type { Written } from './graph/layer-views.ts';
export type { OpenDriverOptions } from './graph/open-driver.ts';
export type { OverlayDiffOptions, OverlayListOptions } from './graph/overlay-diff.ts';
export type { DiffOptions, FilePlace, ListOptions, StorageDriver } from './graph/storage-driver.ts';
export type { ThreadsAhead } from './graph/threads.ts';

/** What works on this machine under `root`, driver by driver, found by trying; each with its reason and remedy. */
export async function doctor(root: string | Uint8Array): Promise<readonly Diagnosis[]> {
  requireMachine('examine this machine');
  expect('doctor', [['root', PATH]], [root]);
  const given = absoluteBytes(root);
  const { doctor: examine } = await loaded('examine this machine', import('./graph/doctor.ts'));
  return examine(given);
}

/** One driver without a store: directories, mounts and layer tars by id, and nothing remembered beside them. */
export async function openDriver(options: OpenDriverOptions): Promise<StorageDriver & { readonly because: string }> {
  requireMachine('open a driver');
  expect('openDriver', [['options', DRIVER_OPTIONS]], [options]);
  const given = { ...options, root: toBytes(absoluteBytes(options.root)) };
  const { openStorageDriver } = await loaded('open a driver', import('./graph/open-driver.ts'));
  return openStorageDriver(given);
}

/**
 * What one overlay changes of another, read from its upper directory alone; both as containerd describes mounts. No
 * store, no driver; needs root. `unsupported`, before the first change: see `upperDirectory`; `walk: true` compares the
 * whole trees then.
 * @example for await (const { kind, path } of upperChanges(lower, upper)) console.log(kind, toText(path));
 */
export async function* upperChanges(
  lower: readonly RawMount[],
  upper: readonly RawMount[],
  options: OverlayListOptions = {},
): AsyncGenerator<Change, void, undefined> {
  requireMachine('compare mounts');
  expect('upperChanges', OVERLAY_DIFF, [lower, upper, options]);
  const { upperChanges: changes } = await loaded('compare mounts', import('./graph/overlay-diff.ts'));
  yield* changes(lower, upper, options);
}

/** As `upperChanges`, as the bytes of a layer tar. */
export async function* writeUpperdir(
  lower: readonly RawMount[],
  upper: readonly RawMount[],
  options: OverlayDiffOptions & Noting & { readonly xattrs?: 'all' | 'docker' } = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  requireMachine('compare mounts');
  expect('writeUpperdir', OVERLAY_DIFF, [lower, upper, options]);
  const { writeUpperdir: write } = await loaded('compare mounts', import('./graph/overlay-diff.ts'));
  yield* write(lower, upper, options);
}

/** What is missing to load a module is told as what it is: descriptors, or the part of koffi that is native. */
async function loaded<T>(action: string, module: Promise<T>): Promise<T> {
  try {
    return await module;
  } catch (cause) {
    const error = fromSystem(cause, `Cannot ${action}`);
    if (isStorageError(error) || !(error instanceof Error) || !/koffi/i.test(error.message)) throw error;
    const remedy = 'install layerstore again, with its optional dependencies';
    throw new StorageError('unsupported', `Cannot ${action}: koffi has no build for this machine there; ${remedy}`, {
      remedy,
      cause,
    });
  }
}

function requireMachine(action: string): void {
  if (process.platform !== 'linux') {
    throw new StorageError(
      'unsupported',
      `Cannot ${action} on ${process.platform}: layerstore mounts layers on Linux only`,
    );
  }
  if (Number.parseInt(process.versions.node, 10) >= 24) return;
  throw new StorageError('unsupported', `Cannot ${action} with Node ${process.version}: it needs Node 24 or newer`);
}
