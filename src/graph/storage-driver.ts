import { type ByteString, quote } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import { Items } from '../base/items.ts';
import type { Job } from '../base/pool.ts';
import type { RingMemory } from '../base/ring.ts';
import type { Abortable, ByteStream, Change, LayerId } from '../base/values.ts';
import type { Rendering } from '../diff/types.ts';
import type { LayerContent, LayerDriver } from '../driver/driver.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, openat } from '../linux/inode.ts';
import { LOCK_EX, tryFlock } from '../linux/sync.ts';
import type {
  ApplyOptions,
  ApplyReport,
  Lending,
  Noting,
  SettledChain,
  TransferReport,
  Unpacked,
  Watched,
} from './apply.ts';
import { listedBy } from './changes.ts';
import type { CompressOptions } from './crew.ts';
import { DelegatingDriver } from './delegating-driver.ts';
import { fill, unpackPacked, unpackTar, watch } from './fill.ts';
import { packingHere, transferHere } from './here.ts';
import type { AuditAnswer, AuditRequest } from './jobs/audit.ts';
import type { DiffSizeRequest, PackRequest, WhyWalkRequest } from './jobs/compare.ts';
import type { FileRange } from './jobs/inflate.ts';
import type { Compressing, Out, PackedBlob } from './jobs/out.ts';
import type { ReplayRequest } from './jobs/replay.ts';
import type { StepsRequest } from './jobs/steps.ts';
import { type LayerFiles, layerFiles } from './layer-files.ts';
import { LayerViews, type Written } from './layer-views.ts';
import { jobStream, noting, stepRings, watched, writeFile } from './streams.ts';
import type { Threads } from './threads.ts';
import { type FillTarget, UnpackedLayer } from './unpacked.ts';

/** Where in an open file something goes. The descriptor stays the asker's. */
export interface FilePlace {
  readonly fd: number;
  readonly offset: number;
}

/** How changes are listed. */
export interface ListOptions {
  readonly rendering?: Rendering;
  /**
   * `collapse`: a directory that was moved is one `rename`, with what differs in it, where the layer tells of it
   * (`redirect_dir`). Default: a delete, and an add for every path in it. All moves happen at once: `from` is a path of
   * the base, `path` one of the result, and a delete inside a moved directory is where that is now.
   */
  readonly renames?: 'collapse';
}

/** How a layer is packed. */
export interface DiffOptions extends Watched, Written, CompressOptions, Lending, Noting {
  readonly xattrs?: 'all' | 'docker';
}

/** One driver with one way of filling and reading its layers: what Docker calls a graph driver, whole. */
export interface StorageDriver extends LayerDriver {
  /**
   * The first half of `apply`, which needs nothing of the layers below: where the driver stacks, several layers may be
   * unpacked at once and then settled bottom first.
   */
  unpack(id: LayerId, tar: FileRange | ByteStream, options?: ApplyOptions): Promise<Unpacked>;
  /**
   * As `settle` of each, at once: layers of this driver that stack, bottom first, each on the one before it. `below`:
   * what the first one lies on, where that was settled so too.
   */
  settle(chain: readonly Unpacked[], below?: Unpacked): Promise<SettledChain>;
  /**
   * Unpacks a tar (from a file: perhaps compressed) into an empty layer. On failure the layer is half full: remove it.
   * Where `parent` is another than the layer's own, what the layer shows is changed, whatever is in it already.
   */
  apply(id: LayerId, tar: FileRange | ByteStream, options?: ApplyOptions): Promise<ApplyReport>;
  /**
   * Packs what `from` changes of its parent and unpacks that into the empty layer `to` of the same parent. The driver's
   * filesystem is written back from when all is packed, so that `seal` has less to wait for.
   */
  transfer(from: LayerId, to: LayerId, options?: Omit<ApplyOptions, 'parent'> & Written): Promise<TransferReport>;
  /** The tar of what `id` changes of `parent`; without: of the whole tree. */
  diff(id: LayerId, parent: LayerId | undefined, options?: DiffOptions): ByteStream;
  /** What `id` changes of `parent`, sorted by path bytes. */
  changes(id: LayerId, parent: LayerId | undefined, options?: Abortable & Written & ListOptions): AsyncIterable<Change>;
  /** Bytes of the files that `id` adds or changes (driver-behaviour D9c). */
  diffSize(id: LayerId, parent: LayerId | undefined, options?: Abortable & Written): Promise<number>;
  /** The very tar that `apply` took, from its record and the layer's files; `corrupt` where it is not that of `diffId`. */
  replay(id: LayerId, record: ByteString, diffId: Digest, options?: Watched & Lending): ByteStream;
  /** As `replay`, into an open file, perhaps compressed: then it answers what the tar became. Several layers may be written at once. */
  replayTo(
    id: LayerId,
    record: ByteString,
    diffId: Digest,
    to: FilePlace,
    options?: Watched & CompressOptions,
  ): Promise<PackedBlob | undefined>;
  /** As `replay`, but only verified. */
  verify(id: LayerId, record: ByteString, diffId: Digest, options?: Watched): Promise<void>;
  /** Where the layer's tree is not as its record says, contents aside: some of it, and how much more there is. */
  audit(id: LayerId, record: ByteString, options?: Abortable): Promise<AuditAnswer>;
  /** Reads the layer's own files by the names of its archive; each is opened at the call. */
  files(id: LayerId): Promise<LayerFiles>;
  /** Which differ reads the layer (`upper` or `walk`), and why. */
  explain(id: LayerId, parent: LayerId | undefined, options?: Written & Pick<ListOptions, 'renames'>): Promise<string>;
}

/** Joins a driver with the differ; takes both over. `scratch`: an existing directory that holds nothing a job reads. */
export function storageDriver(driver: LayerDriver, threads: Threads, scratch: ByteString): StorageDriver {
  return new Graph(driver, threads, scratch);
}

class Graph extends DelegatingDriver implements StorageDriver {
  readonly #driver: LayerDriver;
  readonly #threads: Threads;
  readonly #views: LayerViews;

  constructor(driver: LayerDriver, threads: Threads, scratch: ByteString) {
    super(driver);
    this.#driver = driver;
    this.#threads = threads;
    this.#views = new LayerViews(driver, scratch);
  }

  settle(chain: readonly Unpacked[], below?: Unpacked): Promise<SettledChain> {
    return UnpackedLayer.settle(chain.map(own), below === undefined ? undefined : own(below));
  }

  async unpack(id: LayerId, tar: FileRange | ByteStream, options: ApplyOptions = {}): Promise<UnpackedLayer> {
    const { parent, fresh } = options;
    const target = await this.#target(id, fresh);
    if (fresh === true) return this.#unpackInto(target, tar, options);
    const direct = parent === undefined || parent === (await this.#driver.parent(id));
    if (!direct && (parent === id || !(await this.#driver.has(parent)))) {
      const why = parent === id ? 'it is the layer itself' : 'there is no such layer';
      throw new StorageError('not-found', `Cannot unpack into layer "${id}" against "${parent}": ${why}`, {
        layer: id,
      });
    }
    await this.#refuseSealed(id);
    const lock = lockLayer(target);
    try {
      const unpacked = direct
        ? await this.#unpackInto(target, tar, options)
        : await this.#unpackMounted(target, tar, options);
      return unpacked.whenEnded(() => close(lock));
    } catch (error) {
      close(lock);
      throw error;
    }
  }

  #unpackInto(target: FillTarget, tar: FileRange | ByteStream, options: ApplyOptions): Promise<UnpackedLayer> {
    return fill(this.#threads, target, options, (request) => unpackTar(this.#threads, tar, request, options));
  }

  /** What is below others, or was committed, is never written again (invariant 2). */
  async #refuseSealed(id: LayerId): Promise<void> {
    const [plan] = await this.#driver.mounts(id);
    const writable = plan?.type === 'bind' ? !plan.readonly : plan?.upper !== undefined;
    if (writable) return;
    throw new StorageError(
      'failed-precondition',
      `Cannot unpack into layer "${id}": it is read-only, committed or below others`,
      {
        layer: id,
        remedy: 'make a new layer on it',
      },
    );
  }

  /** Changes of a tree that is not what lies below the layer: they are done to what the layer shows. */
  async #unpackMounted(target: FillTarget, tar: FileRange | ByteStream, options: ApplyOptions): Promise<UnpackedLayer> {
    const { signal } = options;
    const mounted = await this.#driver.mount(target.id, signal === undefined ? {} : { signal });
    try {
      const { path } = mounted;
      const content: LayerContent = { ...target.content, root: path, lowers: [path], whiteouts: 'none' };
      const lowers = async (): Promise<readonly ByteString[]> => [path];
      const unpacked = await this.#unpackInto({ ...target, content, lowers, mounted: true }, tar, options);
      return unpacked.whenEnded(() => mounted[Symbol.asyncDispose]());
    } catch (error) {
      await mounted[Symbol.asyncDispose]();
      throw error;
    }
  }

  async apply(id: LayerId, tar: FileRange | ByteStream, options: ApplyOptions = {}): Promise<ApplyReport> {
    return (await this.unpack(id, tar, options)).settle();
  }

  async transfer(
    from: LayerId,
    to: LayerId,
    options: Omit<ApplyOptions, 'parent'> & Written = {},
  ): Promise<TransferReport> {
    const views = await this.#views.own(from, options);
    const { home, idMaps: ids } = this.#driver;
    using here = await packingHere(this.#threads, views, { ids, xattrs: 'all' }, options);
    if (here !== undefined) {
      return await transferHere(this.#threads, here, { target: await this.#target(to, options.fresh), home }, options);
    }
    const packing = (ring: RingMemory): PackRequest => ({
      of: views,
      ids: this.#driver.idMaps,
      xattrs: 'all',
      to: { kind: 'ring', ring },
      writeBack: this.#driver.home,
    });
    const unpacked = await fill(this.#threads, await this.#target(to, options.fresh), options, (request) =>
      unpackPacked(this.#threads, packing, request, options),
    );
    return { ...(await unpacked.settle()), writtenBack: Promise.resolve() };
  }

  /** A fresh layer's lowers are looked up when it is settled, if nobody knows them by then. */
  async #target(id: LayerId, fresh = false): Promise<FillTarget> {
    const content = await this.#driver.content(id, { lowers: !fresh });
    const lowers = async (): Promise<readonly ByteString[]> =>
      fresh ? (await this.#driver.content(id)).lowers : content.lowers;
    return { id, content, lowers, ids: this.#driver.idMaps };
  }

  async *diff(id: LayerId, parent: LayerId | undefined, options: DiffOptions = {}): AsyncGenerator<Uint8Array> {
    const views = await this.#views.of(id, parent, options);
    const { xattrs = 'all', compress = 'none' } = options;
    const how = { ids: this.#driver.idMaps, xattrs };
    using here = compress === 'none' ? await packingHere(this.#threads, views, how, options) : undefined;
    if (here !== undefined) {
      const skipped = yield* watched(here.stream(), options);
      for (const note of skipped) options.onNote?.(note);
      return;
    }
    using crew = this.#threads.crew(options);
    const { jobs, forTwo } = this.#threads;
    const steps = forTwo ? stepRings() : undefined;
    const request = (ring: RingMemory, compress?: Compressing): PackRequest => ({
      of: steps ?? views,
      ids: this.#driver.idMaps,
      xattrs,
      to: { kind: 'ring', ring, compress },
    });
    const job = (...to: Parameters<typeof request>): Job => ({ name: 'pack', request: request(...to) });
    const beside = steps && {
      rings: [steps.steps, steps.links],
      job: { name: 'steps', request: { views, to: steps } satisfies StepsRequest },
    };
    yield* jobStream(jobs, job, { ...watch(options), ...noting(options), crew, beside, lend: options.lend ?? false });
  }

  changes(
    id: LayerId,
    parent: LayerId | undefined,
    options: Abortable & Written & ListOptions = {},
  ): AsyncIterable<Change> {
    return new Items(this.#changes(id, parent, options));
  }

  async *#changes(
    id: LayerId,
    parent: LayerId | undefined,
    options: Abortable & Written & ListOptions,
  ): AsyncGenerator<readonly Change[]> {
    const views = await this.#views.of(id, parent, options);
    const asked = { views, rendering: options.rendering ?? 'docker', renames: options.renames === 'collapse' };
    yield* listedBy(this.#threads, asked, options.signal);
  }

  async diffSize(id: LayerId, parent: LayerId | undefined, options: Abortable & Written = {}): Promise<number> {
    const content = await this.#driver.content(id, { lowers: false });
    const direct = (await this.#driver.parent(id)) === parent;
    if (content.whiteouts !== 'none' && direct) {
      return this.#threads.jobs.run({ name: 'usage', request: content.root }, { signal: options.signal });
    }
    const request: DiffSizeRequest = { views: await this.#views.of(id, parent, options) };
    return this.#threads.jobs.run({ name: 'diffSize', request }, { signal: options.signal });
  }

  async *replay(
    id: LayerId,
    record: ByteString,
    diffId: Digest,
    options: Watched & Lending = {},
  ): AsyncGenerator<Uint8Array> {
    const { root } = await this.#driver.content(id, { lowers: false });
    const request = (ring: RingMemory): ReplayRequest => ({ record, root, diffId, to: { kind: 'ring', ring } });
    const job = (ring: RingMemory): Job => ({ name: 'replay', request: request(ring) });
    yield* jobStream(this.#threads.jobs, job, { ...watch(options), lend: options.lend ?? false });
  }

  async replayTo(
    id: LayerId,
    record: ByteString,
    diffId: Digest,
    to: FilePlace,
    options: Watched & CompressOptions = {},
  ): Promise<PackedBlob | undefined> {
    const { root } = await this.#driver.content(id, { lowers: false });
    const request = (out: Out): ReplayRequest => ({ record, root, diffId, to: out });
    return writeFile(this.#threads, to, (out) => ({ name: 'replay', request: request(out) }), options);
  }

  async verify(id: LayerId, record: ByteString, diffId: Digest, options: Watched = {}): Promise<void> {
    const { root } = await this.#driver.content(id, { lowers: false });
    const request: ReplayRequest = { record, root, diffId };
    await this.#threads.jobs.run({ name: 'replay', request }, watch(options));
  }

  async files(id: LayerId): Promise<LayerFiles> {
    const { root } = await this.#driver.content(id, { lowers: false });
    return layerFiles(root, (path, why) => {
      return new StorageError('not-found', `Cannot read ${quote(path)} of layer "${id}": ${why}`, { layer: id, path });
    });
  }

  async audit(id: LayerId, record: ByteString, { signal }: Abortable = {}): Promise<AuditAnswer> {
    const { root, lowers, whiteouts } = await this.#driver.content(id);
    const request: AuditRequest = { record, root, ids: this.#driver.idMaps, lowers, whiteouts };
    return await this.#threads.jobs.run({ name: 'audit', request }, { signal });
  }

  async explain(
    id: LayerId,
    parent: LayerId | undefined,
    options: Written & Pick<ListOptions, 'renames'> = {},
  ): Promise<string> {
    const direct = (await this.#driver.parent(id)) === parent;
    if (!direct) return 'walk: the parent asked for is not the direct one';
    const views = await this.#views.of(id, parent, options);
    if (views.upper === undefined) return 'walk: the layer is a full copy, nothing says what changed in it';
    if (views.whole !== undefined) return `walk: ${views.whole}`;
    if (parent === undefined) return 'walk: there is nothing below, all of the layer is listed';
    const request: WhyWalkRequest = { views, renames: options.renames === 'collapse' };
    const because = await this.#threads.jobs.run<string | undefined>({ name: 'whyWalk', request });
    if (because !== undefined) return `walk: ${because}`;
    return 'upper: only what lies in the upper directory is compared with what is below';
  }

  override async [Symbol.asyncDispose](): Promise<void> {
    await super[Symbol.asyncDispose]();
    await this.#threads[Symbol.asyncDispose]();
  }
}

function own(layer: Unpacked): UnpackedLayer {
  if (layer instanceof UnpackedLayer) return layer;
  throw new StorageError('invalid-argument', 'Cannot settle a layer that this driver did not unpack');
}

/** A descriptor that keeps others, in any process, from filling the layer at the same time. */
function lockLayer({ id, content }: FillTarget): number {
  const fd = openat(AT_FDCWD, content.root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (tryFlock(fd, LOCK_EX)) return fd;
  close(fd);
  throw new StorageError('busy', `Cannot unpack into layer "${id}": somebody is unpacking into it`, { layer: id });
}
