import { rm } from 'node:fs/promises';
import { toBytes } from '../base/bytes.ts';
import { asDigest, type Digest } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';
import { keepTar, spoolBlob } from '../graph/blobs.ts';
import type { ApplyReport } from '../graph/fill.ts';
import { chainIds } from '../oci/chain-id.ts';
import { parseConfig } from '../oci/config.ts';
import { formatPlatform, parsePlatform } from '../oci/platform.ts';
import type { ArchivedImage, ArchivedLayer } from '../transport/source.ts';
import { inRoot, keptOf, newLayerId, newLayerMakings, recordOf, type StoreContext } from './context.ts';
import { discardOrWarn } from './discard.ts';
import type { BlobRow, Committed, NewImage, NewLayer } from './rows.ts';
import { openSource } from './spool.ts';
import type { Bytes, LoadedImage, LoadOptions } from './types.ts';

/**
 * Takes the images of an archive in: all of them or none. Layers are unpacked one by one, made durable together, and
 * registered with their images and names in one transaction.
 */
export async function loadImages(
  context: StoreContext,
  source: Bytes,
  options: LoadOptions = {},
): Promise<LoadedImage[]> {
  const platform = options.platform === undefined ? undefined : parsePlatform(options.platform);
  await using archive = await openSource(context, source, options);
  const images = archive.images(platform === undefined ? {} : { platform });
  const loading = new Loading(context, options);
  let committed: Committed;
  try {
    await loading.pin(images);
    for (const image of images) await loading.image(image);
    committed = await loading.commit();
  } catch (error) {
    await loading.undo();
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
  readonly #made: LayerId[] = [];
  readonly #layers: NewLayer[] = [];
  readonly #images: NewImage[] = [];
  readonly #notes: string[][] = [];
  readonly #blobs = new Map<Digest, BlobRow>();
  /** Chain id to driver id, of the store's layers and of those made here. */
  readonly #known = new Map<Digest, LayerId>();
  #pin: string | undefined;

  constructor(context: StoreContext, options: LoadOptions) {
    this.#context = context;
    this.#options = options;
  }

  /** Finds the layers that are there already, and keeps them from removal until the end. */
  async pin(images: readonly ArchivedImage[]): Promise<void> {
    const { pin, layers } = await this.#context.database.pin(images.flatMap(chainsOf));
    this.#pin = pin;
    for (const { chainId, driverId } of layers) if (chainId !== undefined) this.#known.set(chainId, driverId);
  }

  async image(image: ArchivedImage): Promise<void> {
    const config = parseConfig(image.config.bytes, `the config ${image.config.digest}`);
    const chains = chainIds(config.diffIds);
    const notes: string[] = [];
    let parent: LayerId | undefined;
    for (const [i, layer] of image.layers.entries()) {
      this.#options.signal?.throwIfAborted();
      const chainId = chains[i] as Digest;
      const known = this.#known.get(chainId);
      if (known === undefined) {
        const id = newLayerId();
        const report = await this.#unpack(id, parent, layer, chainId);
        notes.push(...report.notes.map((note) => `layer ${i + 1}: ${note}`));
        parent = id;
      } else {
        await this.#verify(layer);
        parent = known;
      }
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
    this.#notes.push(notes);
  }

  async #unpack(id: LayerId, parent: LayerId | undefined, layer: ArchivedLayer, chainId: Digest): Promise<ApplyReport> {
    const { database, driver, threads } = this.#context;
    const { signal, onProgress } = this.#options;
    await database.begin(newLayerMakings(id));
    this.#made.push(id);
    await driver.create(id, { writable: false, ...(parent === undefined ? {} : { parent }) });
    const record = inRoot(this.#context, recordOf(id));
    const bytesTotal = layer.blob.length;
    const report = await driver.apply(id, layer.blob, {
      record,
      ...(signal === undefined ? {} : { signal }),
      onBytes: (bytesDone) => onProgress?.({ step: 'unpack', layer: layer.diffId, bytesDone, bytesTotal }),
    });
    this.#judge(layer, report.diffId, report.blobDigest);
    if (!report.exact.holds) {
      await database.begin([{ kind: 'file', name: keptOf(id) }]);
      await rm(toBytes(record), { force: true });
      await database.end([{ kind: 'file', name: recordOf(id) }]);
      const to = inRoot(this.#context, keptOf(id));
      const compressed = report.compression !== undefined && report.compression !== 'none';
      await keepTar(threads, { from: layer.blob, to, compressed }, this.#options);
    }
    this.#layers.push({
      driverId: id,
      ...(parent === undefined ? {} : { parent }),
      diffId: report.diffId,
      chainId,
      ...(report.exact.holds ? { recordFile: recordOf(id) } : { keptFile: keptOf(id) }),
      exact: report.exact,
      sizeBytes: report.sizeBytes,
      tarBytes: report.tarBytes,
      inodes: report.entries,
    });
    this.#known.set(chainId, id);
    return report;
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
    const differ = (what: string, expected: Digest, actual: Digest): StorageError =>
      new StorageError('corrupt', `Cannot load the image: ${what} is claimed to be ${expected} and is ${actual}`, {
        expected,
        actual,
        layer: layer.diffId,
      });
    if (layer.digest !== undefined && blobDigest !== undefined && asDigest(blobDigest) !== layer.digest) {
      throw differ('the blob of a layer', layer.digest, blobDigest);
    }
    if (diffId !== layer.diffId) throw differ('the content of a layer', layer.diffId, diffId);
    if (blobDigest === undefined) return;
    this.#blobs.set(blobDigest, {
      digest: blobDigest,
      diffId,
      sizeBytes: layer.blob.length,
      mediaType: layer.mediaType ?? '',
    });
  }

  async commit(): Promise<Committed> {
    const { database, driver, threads } = this.#context;
    if (this.#layers.length > 0) {
      this.#options.onProgress?.({ step: 'settle', bytesDone: 0 });
      await driver.seal(this.#layers.map((layer) => layer.driverId));
      await threads.perform.sync(inRoot(this.#context, 'records'));
      this.#options.onProgress?.({ step: 'settle', bytesDone: this.#layers.reduce((sum, l) => sum + l.tarBytes, 0) });
    }
    this.#options.signal?.throwIfAborted();
    return database.commitImages({
      layers: this.#layers,
      images: this.#images,
      blobs: [...this.#blobs.values()].filter((blob) => blob.digest !== blob.diffId),
      ...(this.#pin === undefined ? {} : { pin: this.#pin }),
    });
  }

  /** From here on the layers are the store's: whatever fails, none of them is taken away. */
  async finish(committed: Committed): Promise<LoadedImage[]> {
    await discardOrWarn(this.#context, committed.lost);
    return committed.images.map(({ image, existed, moved }, i) => ({
      ...image,
      existed,
      moved,
      notes: this.#notes[i] ?? [],
    }));
  }

  /** Nothing of what was begun is left; what cannot be removed is told, and waits for a later sweep. */
  async undo(): Promise<void> {
    const { database, log } = this.#context;
    // From disk first: on a full one that makes the room which the database needs.
    await discardOrWarn(this.#context, this.#made);
    if (this.#pin === undefined) return;
    const unpinned = database.unpin(this.#pin);
    await unpinned.catch((error: unknown) => log.warn(`Layers stay in the store for now: ${String(error)}`));
  }
}
