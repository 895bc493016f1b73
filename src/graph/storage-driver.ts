import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import { abortRing, type RingMemory, RingWriter, ringMemory } from '../base/ring.ts';
import { until } from '../base/until.ts';
import type { Abortable, ByteStream, Change, Finding, LayerId } from '../base/values.ts';
import type { InflateLimits } from '../codec/inflate.ts';
import type { Rendering } from '../diff/types.ts';
import type { CreateOptions, LayerContent, LayerDriver, LayerPaths, Mounted, MountOptions } from '../driver/driver.ts';
import type { Mount } from '../mount/mount.ts';
import type { ApplyAnswer, ApplyRequest } from './jobs/apply.ts';
import {
  type ChangesRequest,
  type DiffSizeRequest,
  type PackRequest,
  readChanges,
  type Views,
} from './jobs/compare.ts';
import type { FileRange, InflateAnswer, InflateRequest } from './jobs/inflate.ts';
import type { ReplayRequest } from './jobs/replay.ts';
import type { MergeRequest } from './jobs/trees.ts';
import type { LayerSource } from './lazy-driver.ts';
import { jobStream } from './streams.ts';
import type { Threads } from './threads.ts';

/** Layers below this many bytes are inflated and unpacked in one thread: a second one would cost more than it gives. */
const SMALL_BYTES = 1 << 20;

/** Told of bytes done, at most ten times a second. */
export interface Watched extends Abortable {
  readonly onBytes?: (bytesDone: number) => void;
}

export interface ApplyOptions extends Watched {
  /** The tree the archive was made against. Default: the layer's own parent. */
  readonly parent?: LayerId;
  /** A new file for the split record. */
  readonly record?: ByteString;
  readonly limits?: Partial<InflateLimits>;
}

export interface ApplyReport {
  readonly diffId: Digest;
  readonly sizeBytes: number;
  readonly tarBytes: number;
  readonly entries: number;
  readonly exact: Finding;
  readonly notes: readonly string[];
  /** Of the bytes as they came, where they came from a file. */
  readonly blobDigest?: Digest;
  readonly compression?: InflateAnswer['compression'];
}

export interface DiffOptions extends Watched {
  readonly xattrs?: 'all' | 'docker';
}

/** One driver with one way of filling and reading its layers: what Docker calls a graph driver, whole. */
export interface StorageDriver extends LayerSource {
  /** Unpacks a tar (from a file: perhaps compressed) into an empty layer. On failure the layer is half full: remove it. */
  apply(id: LayerId, tar: FileRange | ByteStream, options?: ApplyOptions): Promise<ApplyReport>;
  /** Packs what `from` changes of its parent and unpacks that into the empty layer `to` of the same parent. */
  transfer(from: LayerId, to: LayerId, options?: Omit<ApplyOptions, 'parent'>): Promise<ApplyReport>;
  /** The tar of what `id` changes of `parent`; without: of the whole tree. */
  diff(id: LayerId, parent: LayerId | undefined, options?: DiffOptions): ByteStream;
  changes(
    id: LayerId,
    parent: LayerId | undefined,
    options?: Abortable & { readonly rendering?: Rendering },
  ): AsyncIterable<Change>;
  /** Bytes of the files that `id` adds or changes (driver-behaviour D9c). */
  diffSize(id: LayerId, parent: LayerId | undefined, options?: Abortable): Promise<number>;
  /** The very tar that `apply` took, from its record and the layer's files; `corrupt` where it is not that of `diffId`. */
  replay(id: LayerId, record: ByteString, diffId: Digest, options?: Watched): ByteStream;
  /** As `replay`, but only verified. */
  verify(id: LayerId, record: ByteString, diffId: Digest, options?: Watched): Promise<void>;
  /** Which differ reads the layer, and why. */
  explain(id: LayerId, parent: LayerId | undefined): Promise<string>;
}

/** Joins a driver with the differ; takes both over. `scratch`: an existing directory that holds nothing a job reads. */
export function storageDriver(driver: LayerSource, threads: Threads, scratch: ByteString): StorageDriver {
  return new Graph(driver, threads, scratch);
}

class Graph implements StorageDriver {
  readonly #driver: LayerSource;
  readonly #threads: Threads;
  readonly #scratch: ByteString;

  constructor(driver: LayerSource, threads: Threads, scratch: ByteString) {
    this.#driver = driver;
    this.#threads = threads;
    this.#scratch = scratch;
  }

  async apply(id: LayerId, tar: FileRange | ByteStream, options: ApplyOptions = {}): Promise<ApplyReport> {
    const content = await this.#driver.content(id);
    const parent = await this.#driver.parent(id);
    if (options.parent !== undefined && options.parent !== parent) {
      throw new StorageError(
        'unsupported',
        `Cannot unpack into layer "${id}" against "${options.parent}": its parent is ${parent === undefined ? 'none' : `"${parent}"`}`,
        { layer: id },
      );
    }
    return this.#filled(id, content, options, (root) => this.#unpack(root, content, tar, options));
  }

  async transfer(from: LayerId, to: LayerId, options: Omit<ApplyOptions, 'parent'> = {}): Promise<ApplyReport> {
    const content = await this.#driver.content(to);
    const views = await this.#views(from, await this.#driver.parent(from));
    return this.#filled(to, content, options, async (root) => {
      const ring = ringMemory();
      const packing: PackRequest = { views, ids: this.#driver.idMaps, xattrs: 'all', to: ring };
      const unpacking = this.#request(root, content, { kind: 'ring', ring }, options);
      const [skipped, applied] = (await this.#threads.jobs.runTogether(
        [
          { name: 'pack', request: packing },
          { name: 'apply', request: unpacking },
        ],
        { ...watch(options), giveUp: () => abortRing(ring) },
      )) as [readonly string[], ApplyAnswer];
      return report({ ...applied, notes: [...skipped, ...applied.notes] });
    });
  }

  /** Fills a layer; where it is a full copy, beside it first and then merged: one reading for every driver. */
  async #filled(
    id: LayerId,
    content: LayerContent,
    options: Abortable,
    fill: (root: ByteString) => Promise<ApplyReport>,
  ): Promise<ApplyReport> {
    if (content.whiteouts !== 'none') return fill(content.root);
    const staged = await this.#stage(id, content);
    try {
      const filled = await fill(staged);
      const request: MergeRequest = { staged, target: content.root };
      await this.#threads.jobs.run({ name: 'merge', request }, { signal: options.signal });
      return filled;
    } finally {
      await this.#threads.perform.removeTree(staged);
    }
  }

  async #stage(id: LayerId, content: LayerContent): Promise<ByteString> {
    if (content.staging === undefined)
      throw new StorageError('internal', `Layer "${id}" has no place to unpack beside it`);
    await this.#threads.perform.removeTree(content.staging);
    await this.#threads.jobs.run({ name: 'makeDirectory', request: content.staging });
    return content.staging;
  }

  async #unpack(
    root: ByteString,
    content: LayerContent,
    tar: FileRange | ByteStream,
    options: ApplyOptions,
  ): Promise<ApplyReport> {
    const request = (from: ApplyRequest['from']): ApplyRequest => this.#request(root, content, from, options);
    const limits = options.limits ?? {};
    const { onBytes, signal } = options;
    const progress = onBytes === undefined ? undefined : ([first]: readonly number[]) => onBytes(first ?? 0);
    if (isRange(tar) && tar.length < SMALL_BYTES) {
      const from = { kind: 'file', range: tar, limits } as const;
      const job = { name: 'apply', request: request(from) };
      return report(await this.#threads.jobs.run<ApplyAnswer>(job, { signal, onProgress: progress }));
    }
    const ring = ringMemory();
    const giveUp = (): void => abortRing(ring);
    if (isRange(tar)) {
      const tarSha256 = new SharedArrayBuffer(32);
      const inflating: InflateRequest = { from: tar, to: ring, tarSha256, limits };
      const [inflated, applied] = (await this.#threads.jobs.runTogether(
        [
          { name: 'inflate', request: inflating },
          { name: 'apply', request: request({ kind: 'ring', ring, tarSha256 }) },
        ],
        { signal, giveUp, onProgress: progress },
      )) as [InflateAnswer, ApplyAnswer];
      return report({ ...applied, inflated });
    }
    const job = { name: 'apply', request: request({ kind: 'ring', ring }) };
    const running = this.#threads.jobs.run<ApplyAnswer>(job, { signal, giveUp, onProgress: progress });
    return report(await fed(tar, ring, running));
  }

  #request(
    root: ByteString,
    content: LayerContent,
    from: ApplyRequest['from'],
    options: Pick<ApplyOptions, 'record'>,
  ): ApplyRequest {
    return {
      from,
      root,
      lowers: content.lowers,
      lowerStyle: content.whiteouts,
      ids: this.#driver.idMaps,
      ...(options.record === undefined ? {} : { record: options.record }),
    };
  }

  async *diff(id: LayerId, parent: LayerId | undefined, options: DiffOptions = {}): AsyncGenerator<Uint8Array> {
    const views = await this.#views(id, parent);
    const request = (to: RingMemory): PackRequest => ({
      views,
      ids: this.#driver.idMaps,
      xattrs: options.xattrs ?? 'all',
      to,
    });
    yield* jobStream(this.#threads.jobs, (ring) => ({ name: 'pack', request: request(ring) }), watch(options));
  }

  async *changes(
    id: LayerId,
    parent: LayerId | undefined,
    options: Abortable & { readonly rendering?: Rendering } = {},
  ): AsyncGenerator<Change> {
    const views = await this.#views(id, parent);
    const request = (to: RingMemory): ChangesRequest => ({ views, rendering: options.rendering ?? 'docker', to });
    const job = (ring: RingMemory): { name: string; request: unknown } => ({ name: 'changes', request: request(ring) });
    yield* readChanges(jobStream(this.#threads.jobs, job, { signal: options.signal }));
  }

  async diffSize(id: LayerId, parent: LayerId | undefined, options: Abortable = {}): Promise<number> {
    const content = await this.#driver.content(id);
    const direct = (await this.#driver.parent(id)) === parent;
    if (content.whiteouts !== 'none' && direct) {
      return this.#threads.jobs.run({ name: 'usage', request: content.root }, { signal: options.signal });
    }
    const request: DiffSizeRequest = { views: await this.#views(id, parent) };
    return this.#threads.jobs.run({ name: 'diffSize', request }, { signal: options.signal });
  }

  async *replay(id: LayerId, record: ByteString, diffId: Digest, options: Watched = {}): AsyncGenerator<Uint8Array> {
    const { root } = await this.#driver.content(id);
    const request = (to: RingMemory): ReplayRequest => ({ record, root, diffId, to });
    yield* jobStream(this.#threads.jobs, (ring) => ({ name: 'replay', request: request(ring) }), watch(options));
  }

  async verify(id: LayerId, record: ByteString, diffId: Digest, options: Watched = {}): Promise<void> {
    const { root } = await this.#driver.content(id);
    const request: ReplayRequest = { record, root, diffId };
    await this.#threads.jobs.run({ name: 'replay', request }, watch(options));
  }

  async explain(id: LayerId, parent: LayerId | undefined): Promise<string> {
    const direct = (await this.#driver.parent(id)) === parent;
    return direct
      ? 'walk: both trees are compared, read-only mounts side by side'
      : 'walk: the parent asked for is not the direct one';
  }

  async #views(id: LayerId, parent: LayerId | undefined): Promise<Views> {
    const content = await this.#driver.content(id);
    const view = await this.#plan(id);
    const direct = (await this.#driver.parent(id)) === parent;
    return {
      view,
      ...(parent === undefined ? {} : { base: await this.#plan(parent) }),
      ...(content.whiteouts !== 'none' && direct ? { upper: content.root } : {}),
      ...(content.createdNs === undefined ? {} : { createdNs: content.createdNs }),
      scratch: this.#scratch,
    };
  }

  async #plan(id: LayerId): Promise<Mount> {
    const plans = await this.#driver.mounts(id, { readonly: true });
    const [plan] = plans;
    if (plan === undefined || plans.length > 1) {
      throw new StorageError('internal', `Cannot read layer "${id}": ${plans.length} mounts are planned for it`);
    }
    return plan;
  }

  // What the driver does alone.

  get name(): LayerDriver['name'] {
    return this.#driver.name;
  }
  get home(): ByteString {
    return this.#driver.home;
  }
  get idMaps(): LayerDriver['idMaps'] {
    return this.#driver.idMaps;
  }
  create(id: LayerId, options: CreateOptions): Promise<void> {
    return this.#driver.create(id, options);
  }
  remove(id: LayerId): Promise<void> {
    return this.#driver.remove(id);
  }
  has(id: LayerId): Promise<boolean> {
    return this.#driver.has(id);
  }
  list(): Promise<LayerId[]> {
    return this.#driver.list();
  }
  parent(id: LayerId): Promise<LayerId | undefined> {
    return this.#driver.parent(id);
  }
  metadata(id: LayerId): Promise<LayerPaths> {
    return this.#driver.metadata(id);
  }
  status(): ReturnType<LayerDriver['status']> {
    return this.#driver.status();
  }
  content(id: LayerId): Promise<LayerContent> {
    return this.#driver.content(id);
  }
  seal(ids: readonly LayerId[]): Promise<void> {
    return this.#driver.seal(ids);
  }
  mounts(id: LayerId, options?: Parameters<LayerDriver['mounts']>[1]): Promise<readonly Mount[]> {
    return this.#driver.mounts(id, options);
  }
  mount(id: LayerId, options?: MountOptions): Promise<Mounted> {
    return this.#driver.mount(id, options);
  }
  release(id: LayerId, holdName: string, options?: { readonly detach?: boolean }): Promise<boolean> {
    return this.#driver.release(id, holdName, options);
  }
  isMounted(id: LayerId): Promise<boolean> {
    return this.#driver.isMounted(id);
  }
  cleanup(): Promise<void> {
    return this.#driver.cleanup();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#driver[Symbol.asyncDispose]();
    await this.#threads[Symbol.asyncDispose]();
  }
}

function isRange(tar: FileRange | ByteStream): tar is FileRange {
  return 'fd' in tar && 'offset' in tar; // a stream of a process may have an `fd` of its own
}

function report(answer: ApplyAnswer): ApplyReport {
  const { inflated, ...rest } = answer;
  return {
    ...rest,
    ...(inflated === undefined ? {} : { blobDigest: inflated.blobDigest, compression: inflated.compression }),
  };
}

function watch(options: Watched): { signal: AbortSignal | undefined; onProgress?: (bytes: readonly number[]) => void } {
  const { onBytes, signal } = options;
  return { signal, ...(onBytes === undefined ? {} : { onProgress: ([first]) => onBytes(first ?? 0) }) };
}

/** Pours the stream into the ring while the job empties it; the true error of either side is thrown. */
async function fed(tar: ByteStream, ring: RingMemory, running: Promise<ApplyAnswer>): Promise<ApplyAnswer> {
  const writer = new RingWriter(ring);
  const failed = new AbortController();
  // A source that stalls keeps nobody waiting, and neither does a job that never began.
  running.catch((error: unknown) => {
    failed.abort(error);
    abortRing(ring);
  });
  try {
    for await (const chunk of until(tar, failed.signal)) await writer.writeAsync(chunk);
    writer.end();
  } catch (error) {
    if (failed.signal.aborted || isStorageError(error, 'canceled')) return await running; // its error says why
    abortRing(ring);
    await running.catch(() => {}); // the source's error is the first
    throw error;
  }
  return running;
}
