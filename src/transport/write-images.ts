import type { Digest } from '../base/digest.ts';
import { fromSystem, StorageError } from '../base/errors.ts';
import type { Abortable, ByteStream } from '../base/values.ts';
import { absolute } from '../base/working-directory.ts';
import { parseConfig } from '../oci/config.ts';
import { compressionOf, digested, layerBlob, layerTar } from './layer-streams.ts';
import type { ArchivedImage, ArchivedLayer } from './source.ts';
import {
  type ImageToSave,
  type LayerToSave,
  layoutMembers,
  type OpenLayer,
  planDocker,
  planOci,
} from './write-archive.ts';
import { writeDirectory } from './write-directory.ts';

/** A layer to write: its tar, uncompressed. */
export interface NewLayer {
  /** The digest of the tar. */
  readonly diffId: Digest;
  readonly sizeBytes: number;
  /** The tar; asked for once in each archive. */
  bytes(): ByteStream;
}

/** An image to write that no archive holds. */
export interface NewImage {
  /** References; none makes an image that has only its digest. */
  readonly names: readonly string[];
  /** The config as JSON: written as it is, its digest is the image's identity. */
  readonly config: Uint8Array;
  /** Base first; as many as the config has diff ids. */
  readonly layers: readonly NewLayer[];
}

/** How an archive is written. */
export interface WriteOptions extends Abortable {
  /** `oci` (default): a layout that is a docker archive at once. `docker`: a docker archive only, layers uncompressed. */
  readonly format?: 'oci' | 'docker';
  /** Seconds since the epoch for the archive's members. Default 0, so that equal images give equal bytes. */
  readonly epochSeconds?: number;
}

/**
 * An archive of images, as bytes: of those that an open archive holds, and of new ones. In the form `oci` what came from a
 * layout keeps its manifest and its blobs, to the byte. Contents are compared with what is claimed of them: `corrupt`.
 */
export async function* writeArchive(
  images: readonly (ArchivedImage | NewImage)[],
  { format = 'oci', epochSeconds = 0, signal }: WriteOptions = {},
): ByteStream {
  const plan = await planOf(images, format, signal);
  const tar = { mtimeNs: BigInt(epochSeconds) * 1_000_000_000n, ...(signal === undefined ? {} : { signal }) };
  yield* format === 'docker' ? planDocker(plan.images, plan.open, tar) : planOci(plan.images, plan.open, tar);
}

/** An OCI layout of images in a directory that is empty or absent; on failure it is left as it was. See `writeArchive`. */
export async function writeLayout(
  images: readonly (ArchivedImage | NewImage)[],
  directory: string,
  { signal }: Abortable = {},
): Promise<void> {
  const path = absolute(directory);
  const plan = await planOf(images, 'oci', signal);
  try {
    await writeDirectory(path, layoutMembers(plan.images, plan.open), signal === undefined ? {} : { signal });
  } catch (error) {
    throw fromSystem(error, `Cannot write ${JSON.stringify(directory)}`);
  }
}

interface Plan {
  readonly images: readonly ImageToSave[];
  readonly open: OpenLayer;
}

type Planned = LayerToSave & { readonly open: () => ByteStream };

async function planOf(
  images: readonly (ArchivedImage | NewImage)[],
  format: 'oci' | 'docker',
  signal: AbortSignal | undefined,
): Promise<Plan> {
  if (images.length === 0) throw new StorageError('invalid-argument', 'Cannot write an archive: no image is given');
  const options = signal === undefined ? {} : { signal };
  const known = new Map<LayerToSave, () => ByteStream>();
  const plan = (layers: readonly Planned[]): readonly LayerToSave[] =>
    layers.map(({ open, ...layer }) => {
      known.set(layer, open);
      return layer;
    });
  const planned: ImageToSave[] = [];
  for (const image of images) {
    if (image.config instanceof Uint8Array) {
      const { names, config, layers } = image as NewImage;
      checkLayers(config, layers);
      planned.push({ names, config, layers: plan(layers.map(newLayer)) });
      continue;
    }
    const { names, tag, config, manifest, layers } = image as ArchivedImage;
    const isKept = format === 'oci' && manifest !== undefined;
    const saved: Planned[] = [];
    for (const layer of layers) saved.push(isKept ? keptLayer(layer, options) : await tarLayer(layer, options));
    planned.push({
      names,
      config: config.bytes,
      layers: plan(saved),
      ...(tag === undefined ? {} : { tag }),
      ...(isKept ? { manifest } : {}),
    });
  }
  return { images: planned, open: (layer) => known.get(layer)!() };
}

function checkLayers(bytes: Uint8Array, layers: readonly NewLayer[]): void {
  const { diffIds } = parseConfig(bytes, 'the config of the image');
  if (diffIds.length === layers.length && diffIds.every((diffId, i) => diffId === layers[i]?.diffId)) return;
  throw new StorageError(
    'invalid-argument',
    'Cannot write an image: the diff ids of its config are not those of its layers, base first',
  );
}

function newLayer(layer: NewLayer): Planned {
  const { diffId, sizeBytes } = layer;
  return { diffId, sizeBytes, open: () => digested(layer.bytes(), diffId, 'the content of a layer') };
}

/** The blob as it is, compressed or not. */
function keptLayer(layer: ArchivedLayer, options: Abortable): Planned {
  const { diffId, digest, mediaType, blob } = layer;
  return {
    diffId,
    sizeBytes: blob.length,
    ...(digest === undefined ? {} : { digest }),
    ...(mediaType === undefined ? {} : { mediaType }),
    open: () => layerBlob(layer, options),
  };
}

/** The tar. A header tells its size first, so a compressed one is unpacked once more to know it. */
async function tarLayer(layer: ArchivedLayer, options: Abortable): Promise<Planned> {
  let sizeBytes = layer.blob.length;
  if ((await compressionOf(layer.blob)) !== 'none') {
    sizeBytes = 0;
    for await (const chunk of layerTar(layer, options)) sizeBytes += chunk.length;
  }
  return { diffId: layer.diffId, sizeBytes, open: () => layerTar(layer, options) };
}
