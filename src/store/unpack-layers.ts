import { rm } from 'node:fs/promises';
import { toBytes } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import { isStorageError, record, StorageError } from '../base/errors.ts';
import { unlessAborted } from '../base/until.ts';
import type { LayerId } from '../base/values.ts';
import type { InflateLimits } from '../codec/inflate.ts';
import { keepTar } from '../graph/blobs.ts';
import type { ApplyReport, Unpacked } from '../graph/fill.ts';
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
  /** For people: `layer 3 of 5, sha256:…`. */
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
  const filled = stacks.holds ? await unpacking.sideBySide(planned) : unpacking.oneByOne(planned);
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
        return this.#settle(one, await this.#unpack(one, false));
      });
      before = filled;
      return filled;
    });
  }

  /** All are made at once, unpacked as there are threads, and settled when those below are. */
  async sideBySide(planned: readonly PlannedLayer[]): Promise<Promise<FilledLayer>[]> {
    for (const one of planned) await this.#create(one);
    const unpacked = this.#spread(planned);
    const settled = new Map<LayerId, Promise<FilledLayer>>();
    for (const one of planned) {
      const below = one.parent === undefined ? undefined : settled.get(one.parent);
      const own = unpacked.get(one);
      const filled = async (): Promise<FilledLayer> => {
        const layer = (await own) as Unpacked; // first, so that whoever waits for this one waits for its thread too
        await below;
        return this.#settle(one, layer);
      };
      settled.set(one.id, filled());
    }
    return [...settled.values()];
  }

  /** As many at a time as there are threads; the last of them may take a second one, where that is free. */
  #spread(planned: readonly PlannedLayer[]): ReadonlyMap<PlannedLayer, Promise<Unpacked>> {
    const size = this.#context.threads.width;
    const waiting = planned.toSorted((a, b) => b.layer.blob.length - a.layer.blob.length);
    const results = new Map(planned.map((one) => [one, Promise.withResolvers<Unpacked>()]));
    let busy = 0;
    const next = (): void => {
      const one = busy < size ? waiting.shift() : undefined;
      if (one === undefined) return;
      busy++;
      const { resolve, reject } = results.get(one) as PromiseWithResolvers<Unpacked>;
      const oneThread = waiting.length > 0 || busy === size;
      const ended = (): void => {
        busy--;
        next();
      };
      this.#unpack(one, oneThread).then(resolve, reject).finally(ended);
      next();
    };
    next();
    return new Map([...results].map(([one, { promise }]) => [one, promise]));
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

  async #settle(planned: PlannedLayer, unpacked: Unpacked): Promise<FilledLayer> {
    return this.#settleLayer(planned, unpacked).catch((error: unknown) => {
      throw ofLayer(planned, error);
    });
  }

  async #settleLayer(planned: PlannedLayer, unpacked: Unpacked): Promise<FilledLayer> {
    const { id, parent, chainId, layer } = planned;
    const report = await unpacked.settle();
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
