import { asDigest, type Digest } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';
import { spoolBlob } from '../graph/blobs.ts';
import { chainIds } from '../oci/chain-id.ts';
import { parseConfig } from '../oci/config.ts';
import { formatPlatform, parsePlatform } from '../oci/platform.ts';
import type { ArchivedImage, ArchivedLayer } from '../transport/source.ts';
import { heeding, newLayerId, newLayerMakings, type StoreContext, undoing } from './context.ts';
import { discardOrWarn } from './discard.ts';
import { Durable } from './durable.ts';
import type { BlobRow, Committed, NewImage } from './rows.ts';
import { inSource, openSource } from './spool.ts';
import type { Bytes, LoadedImage, LoadOptions } from './types.ts';
import { type FilledLayer, type PlannedLayer, type UnpackOptions, unpackLayers } from './unpack-layers.ts';

/**
 * Takes the images of an archive in: all of them or none. Layers are unpacked side by side, made durable together, and
 * registered with their images and names in one transaction.
 */
export async function loadImages(
  context: StoreContext,
  source: Bytes,
  options: LoadOptions = {},
): Promise<LoadedImage[]> {
  try {
    return await load(context, source, options);
  } catch (error) {
    throw inSource(source, error);
  }
}

async function load(context: StoreContext, source: Bytes, options: LoadOptions): Promise<LoadedImage[]> {
  const platform = options.platform === undefined ? undefined : parsePlatform(options.platform);
  await context.database.room('to grow'); // an archive from a pipe takes room before anything is announced
  await using archive = await openSource(context, source, options);
  const images = archive.images(platform === undefined ? {} : { platform });
  const loading = new Loading(heeding(context, options), options);
  let committed: Committed;
  try {
    await loading.plan(images);
    const unpack = async (): Promise<Committed> => {
      using durable = await loading.unpack();
      return await loading.commit(durable);
    };
    const { missing } = loading;
    const afterOthers = async (): Promise<Committed> => {
      await loading.plan(images); // what they unpacked meanwhile is there now
      return unpack();
    };
    committed = missing.length === 0 ? await unpack() : await context.turns.take(missing, afterOthers, options);
  } catch (error) {
    await loading.undo(undoing(context));
    throw error;
  }
  return loading.finish(committed);
}

function chainsOf({ config }: ArchivedImage): readonly Digest[] {
  return chainIds(parseConfig(config.bytes, `the config ${config.digest}`).diffIds);
}

class Loading {
  readonly #context: StoreContext;
  readonly #options: LoadOptions;
  #planned: PlannedLayer[] = [];
  /** Layers that the archive has and the store too: to be compared with what is known of them. */
  #present: ArchivedLayer[] = [];
  /** For people: `layer 3 of 5, sha256:...`. */
  readonly #places = new Map<ArchivedLayer, string>();
  #filled: readonly FilledLayer[] = [];
  #images: NewImage[] = [];
  /** For each image the chain ids of its layers. */
  #chains: (readonly Digest[])[] = [];
  /** For each image what is to be said of its names. */
  #notes: (readonly string[])[] = [];
  readonly #blobs = new Map<Digest, BlobRow>();
  /** Keep layers from removal; more than one only while it is planned again. */
  readonly #pins = new Set<string>();

  constructor(context: StoreContext, options: LoadOptions) {
    this.#context = context;
    this.#options = options;
  }

  /** Of the layers that are to be unpacked. */
  get missing(): readonly Digest[] {
    return this.#planned.map(({ chainId }) => chainId);
  }

  /**
   * Finds the layers that are there already, keeps them from removal until the end, and gives ids to the others. The
   * last plan counts.
   */
  async plan(images: readonly ArchivedImage[]): Promise<void> {
    const { database } = this.#context;
    const before = [...this.#pins];
    const { pin, layers } = await database.pin(images.flatMap(chainsOf));
    this.#pins.add(pin);
    for (const old of before) {
      await database.unpin(old);
      this.#pins.delete(old);
    }
    this.#planned = [];
    this.#present = [];
    this.#images = [];
    this.#chains = [];
    this.#notes = [];
    const known = new Map<Digest, LayerId>();
    for (const { chainId, driverId } of layers) if (chainId !== undefined) known.set(chainId, driverId);
    for (const image of images) {
      const config = parseConfig(image.config.bytes, `the config ${image.config.digest}`);
      const chains = chainIds(config.diffIds);
      this.#chains.push(chains);
      this.#notes.push(image.notes ?? []);
      let parent: LayerId | undefined;
      for (const [i, layer] of image.layers.entries()) {
        const chainId = chains[i] as Digest;
        const place = `layer ${i + 1} of ${image.layers.length}, ${layer.diffId}`;
        this.#places.set(layer, place);
        let id = known.get(chainId);
        if (id === undefined) {
          id = newLayerId();
          known.set(chainId, id);
          this.#planned.push({ id, chainId, layer, place, ...(parent === undefined ? {} : { parent }) });
        } else {
          this.#present.push(layer);
        }
        parent = id;
      }
      const chainId = chains.at(-1);
      this.#images.push({
        digest: image.config.digest,
        config: image.config.bytes,
        platform: config.platform === undefined ? '' : formatPlatform(config.platform),
        names: image.names,
        ...(chainId === undefined ? {} : { chainId }),
        ...(config.created === undefined ? {} : { createdAt: config.created }),
        ...(image.manifest === undefined ? {} : { manifest: image.manifest }),
      });
    }
  }

  /** Answers what is to last, where anything was unpacked. */
  async unpack(): Promise<Durable | undefined> {
    const durable = this.#planned.length === 0 ? undefined : await Durable.open(this.#context);
    try {
      await this.#unpack();
      return durable;
    } catch (error) {
      durable?.[Symbol.dispose]();
      throw error;
    }
  }

  async #unpack(): Promise<void> {
    const { database } = this.#context;
    if (this.#planned.length > 0) await database.begin(this.#planned.flatMap(({ id }) => newLayerMakings(id)));
    const judge: UnpackOptions['judge'] = (layer, diffId, blobDigest) => this.#judge(layer, diffId, blobDigest);
    this.#filled = await unpackLayers(this.#context, this.#planned, { ...this.#options, judge });
    for (const layer of this.#present) await this.#verify(layer);
  }

  /** A layer that is there already: its blob is only hashed, and not even that where the pair of digests is known. */
  async #verify(layer: ArchivedLayer): Promise<void> {
    if (layer.digest === undefined) return; // nothing but the diff id is claimed, and that one we hashed when it came in
    const [row] = await this.#context.database.blobs([layer.digest]);
    if (row?.diffId === layer.diffId || this.#blobs.get(layer.digest)?.diffId === layer.diffId) return;
    const answer = await spoolBlob(this.#context.threads, layer.blob, undefined, { signal: this.#options.signal });
    this.#judge(layer, answer.diffId, answer.blobDigest);
  }

  #judge(layer: ArchivedLayer, diffId: Digest, blobDigest: Digest | undefined): void {
    const differ = (what: string, expected: Digest, actual: Digest): StorageError => {
      const message = `Cannot load ${this.#places.get(layer)}: ${what} is claimed to be ${expected} and is ${actual}`;
      return new StorageError('corrupt', message, { expected, actual, layer: layer.diffId });
    };
    if (layer.digest !== undefined && blobDigest !== undefined && asDigest(blobDigest) !== layer.digest) {
      throw differ('its blob', layer.digest, blobDigest);
    }
    if (diffId !== layer.diffId) throw differ('its content', layer.diffId, diffId);
    if (blobDigest === undefined) return;
    this.#blobs.set(blobDigest, {
      digest: blobDigest,
      diffId,
      sizeBytes: layer.blob.length,
      mediaType: layer.mediaType ?? '',
    });
  }

  async commit(durable: Durable | undefined): Promise<Committed> {
    const { database } = this.#context;
    const rows = this.#filled.map(({ row }) => row);
    if (durable !== undefined) {
      this.#options.onProgress?.({ step: 'settle', bytesDone: 0 });
      const ids = rows.map((row) => row.driverId);
      await durable.seal(ids, this.#options);
      this.#options.onProgress?.({ step: 'settle', bytesDone: rows.reduce((sum, row) => sum + row.tarBytes, 0) });
    }
    this.#options.signal?.throwIfAborted();
    const [pin] = this.#pins;
    return database.commitImages({
      layers: rows,
      images: this.#images,
      blobs: [...this.#blobs.values()].filter((blob) => blob.digest !== blob.diffId),
      ...(pin === undefined ? {} : { pin }),
    });
  }

  /** From here on the layers are the store's: whatever fails, none of them is taken away. */
  async finish(committed: Committed): Promise<LoadedImage[]> {
    await discardOrWarn(this.#context, committed.lost, { later: true });
    return committed.images.map(({ image: { manifestDigest: _, ...image }, existed, moved }, i) => ({
      ...image,
      ...manifestOf(this.#images[i]),
      existed,
      moved,
      notes: [...(this.#notes[i] ?? []), ...this.#notesOf(this.#chains[i] ?? [])],
    }));
  }

  /** What was said of the layers of an image that came in now, each with its place from the bottom. */
  #notesOf(chains: readonly Digest[]): string[] {
    return chains.flatMap((chainId, i) => {
      const filled = this.#filled.find(({ row }) => row.chainId === chainId);
      return (filled?.notes ?? []).map((note) => `layer ${i + 1}: ${note}`);
    });
  }

  /** Nothing of what was begun is left; what cannot be removed is told, and waits for a later sweep. */
  async undo(context: StoreContext): Promise<void> {
    const { database, log } = context;
    // From disk first: on a full one that makes the room which the database needs.
    await discardOrWarn(
      context,
      this.#planned.map(({ id }) => id),
    );
    for (const pin of this.#pins) {
      const unpinned = database.unpin(pin);
      await unpinned.catch((error: unknown) => log.warn(`Layers stay in the store for now: ${String(error)}`));
    }
  }
}

/** The archive's own, whatever the image came with before: one archive gives one answer. */
function manifestOf(image: NewImage | undefined): Pick<LoadedImage, 'manifestDigest'> {
  return image?.manifest === undefined ? {} : { manifestDigest: image.manifest.digest };
}
