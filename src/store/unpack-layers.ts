import { rm } from 'node:fs/promises';
import { toBytes } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import { isStorageError, record, StorageError } from '../base/errors.ts';
import { unlessAborted } from '../base/until.ts';
import type { LayerId } from '../base/values.ts';
import type { InflateLimits } from '../codec/inflate.ts';
import type { ApplyReport, SettledChain, Unpacked } from '../graph/apply.ts';
import { keepTar } from '../graph/blobs.ts';
import { SMALL_BYTES } from '../graph/fill.ts';
import type { ArchivedLayer } from '../transport/source.ts';
import { inRoot, keptOf, recordOf, type StoreContext } from './context.ts';
import type { NewLayer } from './rows.ts';
import type { Progressing } from './types.ts';

// Layers are unpacked side by side, the largest first, and settled bottom first: that is quick, and needs those below.
// Where the driver copies instead of stacking, each is made and filled when its parent is whole.

/** A layer of the archive that the store does not have: announced, and given an id. */
export interface PlannedLayer {
  readonly id: LayerId;
  readonly parent?: LayerId;
  readonly chainId: Digest;
  readonly layer: ArchivedLayer;
  /** For people: `layer 3 of 5, sha256:...`. */
  readonly place: string;
}

export interface UnpackOptions extends Progressing {
  readonly limits?: Partial<Pick<InflateLimits, 'freeBytes' | 'ratioMax'>>;
  /** Called with the digests as soon as they are known; what it throws ends the whole. */
  readonly judge: (layer: ArchivedLayer, diffId: Digest, blobDigest: Digest | undefined) => void;
}

/** A layer on disk, not yet durable nor registered, and what was said of it. */
export interface FilledLayer {
  readonly row: NewLayer;
  readonly notes: readonly string[];
}

/** From that many bytes on, a layer is written back while others are still unpacked. */
const WRITE_BACK_BYTES = 8 << 20;

/**
 * Makes and unpacks the layers (parents before children in the list) and answers them in that order. When one fails the
 * others are given up, and all have ended before it throws.
 */
export async function unpackLayers(
  context: StoreContext,
  planned: readonly PlannedLayer[],
  options: UnpackOptions,
): Promise<FilledLayer[]> {
  if (planned.length === 0) return [];
  const { stacks } = await context.driver.capabilities();
  const given = new AbortController();
  const signal = options.signal === undefined ? given.signal : AbortSignal.any([options.signal, given.signal]);
  const unpacking = new Unpacking(context, { ...options, signal });
  const filled = stacks.holds ? unpacking.sideBySide(planned) : unpacking.oneByOne(planned);
  let failure: { readonly error: unknown } | undefined;
  const note = (error: unknown): undefined => {
    failure ??= { error };
    given.abort(error);
    return undefined;
  };
  const layers = await Promise.all(filled.map((one) => one.catch(note)));
  await unlessAborted(unpacking.writtenBack(), { signal }).catch(note);
  if (failure !== undefined) throw failure.error;
  return layers as FilledLayer[];
}

class Unpacking {
  readonly #context: StoreContext;
  readonly #options: UnpackOptions;
  #writingBack: Promise<void> | undefined;
  #writeBacks: Promise<void> = Promise.resolve();

  constructor(context: StoreContext, options: UnpackOptions) {
    this.#context = context;
    this.#options = options;
  }

  /** Each is made and filled when the one before is whole. */
  oneByOne(planned: readonly PlannedLayer[]): Promise<FilledLayer>[] {
    let before: Promise<unknown> = Promise.resolve();
    return planned.map((one) => {
      const filled = before.then(async () => {
        await this.#create(one);
        const unpacked = await this.#unpack(one, false);
        const report = await unpacked.settle().catch((error: unknown) => {
          throw ofLayer(one, error);
        });
        return this.#finish(one, report);
      });
      before = filled;
      return filled;
    });
  }

  /** Made one after another, unpacked as there are threads, and settled when those below are. */
  sideBySide(planned: readonly PlannedLayer[]): Promise<FilledLayer>[] {
    let before: Promise<unknown> = Promise.resolve();
    const made = new Map<PlannedLayer, Promise<unknown>>();
    for (const one of planned) {
      before = before.then(() => this.#create(one));
      before.catch(() => {}); // who unpacks it tells
      made.set(one, before);
    }
    const settling = new Settling(planned, (chain, below) => this.#context.driver.settle(chain, below));
    const unpack = (one: PlannedLayer, oneThread: boolean): Promise<void> =>
      settling.unpacked(one, async () => {
        await made.get(one);
        return this.#unpack(one, oneThread);
      });
    this.#spread(planned, unpack);
    return planned.map(async (one) => this.#finish(one, await settling.settled(one)));
  }

  /** As many at a time as there are threads; the last of them may take a second one, where that is free. */
  #spread(planned: readonly PlannedLayer[], unpack: (one: PlannedLayer, oneThread: boolean) => Promise<void>): void {
    const size = this.#context.threads.width;
    // The large ones first; those that take no time from the bottom, as they are settled.
    const weight = ({ layer: { blob } }: PlannedLayer): number => (blob.length < SMALL_BYTES ? 0 : blob.length);
    const waiting = planned.toSorted((a, b) => weight(b) - weight(a));
    let busy = 0;
    const next = (): void => {
      const one = busy < size ? waiting.shift() : undefined;
      if (one === undefined) return;
      busy++;
      const oneThread = waiting.length > 0 || busy === size;
      void unpack(one, oneThread).finally(() => {
        busy--;
        next();
      });
      next();
    };
    next();
  }

  #create({ id, parent }: PlannedLayer): Promise<void> {
    const { signal } = this.#options;
    return this.#context.driver.create(id, {
      writable: false,
      ...(parent === undefined ? {} : { parent }),
      ...(signal === undefined ? {} : { signal }),
    });
  }

  async #unpack(planned: PlannedLayer, oneThread: boolean): Promise<Unpacked> {
    return this.#unpackLayer(planned, oneThread).catch((error: unknown) => {
      throw ofLayer(planned, error);
    });
  }

  async #unpackLayer({ id, layer }: PlannedLayer, oneThread: boolean): Promise<Unpacked> {
    const { signal, onProgress, limits, judge } = this.#options;
    const bytesTotal = layer.blob.length;
    const unpacked = await this.#context.driver.unpack(id, layer.blob, {
      record: inRoot(this.#context, recordOf(id)),
      fresh: true,
      oneThread,
      ...(signal === undefined ? {} : { signal }),
      ...(limits === undefined ? {} : { limits }),
      onBytes: (bytesDone) => onProgress?.({ step: 'unpack', layer: layer.diffId, bytesDone, bytesTotal }),
    });
    judge(layer, unpacked.diffId, unpacked.blobDigest);
    if (bytesTotal >= WRITE_BACK_BYTES) this.#writeBack();
    return unpacked;
  }

  /** Begins to write back what is unpacked, beside the rest, so that less is left to wait for at the end. */
  #writeBack(): void {
    if (this.#writingBack !== undefined) return;
    const { driver, threads } = this.#context;
    this.#writingBack = threads.writeBack(driver.home).finally(() => {
      this.#writingBack = undefined;
    });
    this.#writeBacks = Promise.all([this.#writeBacks, this.#writingBack]).then(() => {});
    this.#writeBacks.catch(() => {}); // `writtenBack` tells it
  }

  /** An error of a write-back is told once by the kernel, so it must not be lost. */
  writtenBack(): Promise<void> {
    return this.#writeBacks;
  }

  /** A layer that is whole. */
  async #finish(planned: PlannedLayer, report: ApplyReport): Promise<FilledLayer> {
    return this.#filled(planned, report).catch((error: unknown) => {
      throw ofLayer(planned, error);
    });
  }

  async #filled({ id, parent, chainId, layer }: PlannedLayer, report: ApplyReport): Promise<FilledLayer> {
    if (!report.exact.holds) await this.#keepTar(id, layer, report);
    const row = {
      driverId: id,
      ...(parent === undefined ? {} : { parent }),
      diffId: report.diffId,
      chainId,
      ...(report.exact.holds ? { recordFile: recordOf(id) } : { keptFile: keptOf(id) }),
      exact: report.exact,
      sizeBytes: report.sizeBytes,
      tarBytes: report.tarBytes,
      inodes: report.entries,
    };
    return { row, notes: [...report.notes, ...mediaTypeNotes(layer.mediaType, report.compression)] };
  }

  async #keepTar(id: LayerId, layer: ArchivedLayer, report: ApplyReport): Promise<void> {
    const { database, threads } = this.#context;
    await database.begin([{ kind: 'file', name: keptOf(id) }]);
    await rm(toBytes(inRoot(this.#context, recordOf(id))), { force: true });
    await database.end([{ kind: 'file', name: recordOf(id) }]);
    const compressed = report.compression !== undefined && report.compression !== 'none';
    await keepTar(threads, { from: layer.blob, to: inRoot(this.#context, keptOf(id)), compressed }, this.#options);
  }
}

interface Slot {
  readonly layer: PlannedLayer;
  readonly report: PromiseWithResolvers<ApplyReport>;
  readonly above: Slot[];
  readonly below?: Slot;
  unpacked?: Unpacked;
  state: 'waits' | 'is being settled' | 'settled' | 'failed';
}

/** Settles layers as they come in: those that are there and lie on one another together, bottom first. */
class Settling {
  readonly #slots = new Map<LayerId, Slot>();
  readonly #settle: (chain: readonly Unpacked[], below: Unpacked | undefined) => Promise<SettledChain>;

  constructor(
    planned: readonly PlannedLayer[],
    settle: (chain: readonly Unpacked[], below: Unpacked | undefined) => Promise<SettledChain>,
  ) {
    this.#settle = settle;
    for (const layer of planned) {
      const below = layer.parent === undefined ? undefined : this.#slots.get(layer.parent);
      const report = Promise.withResolvers<ApplyReport>();
      const slot: Slot = { layer, report, above: [], state: 'waits', ...(below === undefined ? {} : { below }) };
      below?.above.push(slot);
      this.#slots.set(layer.id, slot);
    }
  }

  /** Rejects only when its thread has ended too. */
  settled({ id }: PlannedLayer): Promise<ApplyReport> {
    return this.#slot(id).report.promise;
  }

  /** Resolves when the layer is unpacked, or could not be; it is settled as soon as it can be. */
  async unpacked({ id }: PlannedLayer, unpack: () => Promise<Unpacked>): Promise<void> {
    const slot = this.#slot(id);
    try {
      slot.unpacked = await unpack();
    } catch (error) {
      this.#fail(slot, error);
      return;
    }
    const { below } = slot;
    if (below?.state === 'failed') below.report.promise.catch((error: unknown) => this.#fail(slot, error));
    else if (below === undefined || below.state === 'settled') void this.#settleFrom(slot);
  }

  async #settleFrom(bottom: Slot): Promise<void> {
    const chain = [bottom];
    for (let top: Slot | undefined = bottom; top !== undefined; ) {
      top.state = 'is being settled';
      top = top.above.find(isReady);
      if (top !== undefined) chain.push(top);
    }
    const { reports, failure } = await this.#settle(
      chain.map(({ unpacked }) => unpacked as Unpacked),
      bottom.below?.unpacked,
    );
    const settled = chain.slice(0, reports.length);
    for (const [i, slot] of settled.entries()) {
      slot.state = 'settled';
      slot.report.resolve(reports[i] as ApplyReport);
    }
    const failed = chain[reports.length];
    if (failed !== undefined) this.#fail(failed, ofLayer(failed.layer, failure?.error));
    for (const { above } of settled) for (const slot of above.filter(isReady)) void this.#settleFrom(slot);
  }

  /** Nothing above it can be settled; what is still being unpacked is told when it is. */
  #fail(slot: Slot, error: unknown): void {
    slot.state = 'failed';
    slot.report.reject(error);
    for (const above of slot.above) if (above.unpacked !== undefined) this.#fail(above, error);
  }

  #slot(id: LayerId): Slot {
    return this.#slots.get(id) as Slot;
  }
}

function isReady({ unpacked, state }: Slot): boolean {
  return unpacked !== undefined && state === 'waits';
}

/** Says in which layer of the archive it failed; who gave up needs no such word. */
function ofLayer({ place, layer }: PlannedLayer, error: unknown): unknown {
  if (!isStorageError(error) || error.code === 'canceled' || error.layer === layer.diffId) return error;
  const { code, message, stack: _, cause: __, ...facts } = record(error);
  const state = message.startsWith('Cannot ') ? `c${message.slice(1)}` : message;
  return new StorageError(code, `Cannot load ${place}: ${state}`, { ...facts, layer: layer.diffId, cause: error });
}

/** The content decides; a media type that says otherwise is reported. */
function mediaTypeNotes(mediaType: string | undefined, compression: ApplyReport['compression']): string[] {
  if (mediaType === undefined || compression === undefined) return [];
  const [, claimed = 'none'] = /[+.](gzip|zstd)$/.exec(mediaType) ?? [];
  return claimed === compression
    ? []
    : [
        `its media type ${JSON.stringify(mediaType)} is wrong: it is ${compression === 'none' ? 'not compressed' : compression}`,
      ];
}
