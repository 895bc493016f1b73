import { write } from 'node:fs';
import { promisify } from 'node:util';
import { fromText } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { together } from '../base/together.ts';
import type { Abortable, ByteStream } from '../base/values.ts';
import { absolute } from '../base/working-directory.ts';
import type { Lending, Watched } from '../graph/apply.ts';
import type { FilePlace } from '../graph/storage-driver.ts';
import {
  type ArchiveMember,
  dockerMembers,
  type ImageToSave,
  type LayerToSave,
  layoutMembers,
  type OpenLayer,
  ociMembers,
  piecesOf,
  planDocker,
  planOci,
} from '../transport/write-archive.ts';
import { writeDirectory } from '../transport/write-directory.ts';
import { compressLayers } from './compress-layers.ts';
import type { StoreContext } from './context.ts';
import { layerTar, layerTarTo } from './layer-tar.ts';
import { fileError } from './layout.ts';
import { pinned } from './pinned.ts';
import type { LayerRow } from './rows.ts';
import { takeDirectory } from './saved-directory.ts';
import type { Image, Progressing, SaveOptions } from './types.ts';

interface Plan extends AsyncDisposable {
  readonly images: readonly ImageToSave[];
  readonly open: OpenLayer;
  /** As `open`, into an open file. */
  write(layer: LayerToSave, to: FilePlace, options: Abortable): Promise<void>;
}

/** One archive with the images that were asked for; each layer once. */
export async function* saveImages(
  context: StoreContext,
  asked: readonly (Image | string)[],
  options: SaveOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  refuseCompressedDocker(options);
  await using planned = await plan(context, asked, options);
  yield* archiveOf(planned, options);
}

function archiveOf({ images, open: openLayer }: Plan, options: SaveOptions): ByteStream {
  const tar = {
    mtimeNs: BigInt(options.epochSeconds ?? 0) * 1_000_000_000n,
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  };
  return options.format === 'docker' ? planDocker(images, openLayer, tar) : planOci(images, openLayer, tar);
}

/** As `saveImages`, into an open empty file, by as many threads as there are; the descriptor stays the caller's. */
export async function saveTo(
  context: StoreContext,
  asked: readonly (Image | string)[],
  fd: number,
  options: SaveOptions = {},
): Promise<void> {
  refuseCompressedDocker(options);
  await using planned = await plan(context, asked, options);
  const members = (options.format === 'docker' ? dockerMembers : ociMembers)(planned.images, planned.open);
  const mtimeNs = BigInt(options.epochSeconds ?? 0) * 1_000_000_000n;
  await together(options, (signal) =>
    piecesOf(members, { mtimeNs }).map((piece) => {
      const { offset } = piece;
      if ('bytes' in piece) return writeAt(fd, piece.bytes, offset);
      return planned.write(piece.layer, { fd, offset }, { signal });
    }),
  );
}

/** Tells of the bytes of one layer's tar. */
function watched(
  { diffId, tarBytes: bytesTotal }: LayerRow,
  { signal, onProgress, lend = false }: Progressing & Lending,
): Watched & Lending {
  return {
    lend,
    ...(signal === undefined ? {} : { signal }),
    onBytes: (bytesDone) => onProgress?.({ step: 'pack', layer: diffId ?? '', bytesDone, bytesTotal }),
  };
}

function refuseCompressedDocker({ format, compress = 'none' }: SaveOptions): void {
  if (format !== 'docker' || compress === 'none') return;
  throw new StorageError(
    'invalid-argument',
    'Cannot save: the layers of a docker archive are not compressed; take the format oci, or compress the whole archive',
  );
}

async function writeAt(fd: number, bytes: Uint8Array, offset: number): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    at += (await promisify(write)(fd, bytes, at, bytes.length - at, offset + at)).bytesWritten;
  }
}

/** An OCI layout in `directory`, which is empty or absent; on failure it is left as it was. */
export async function saveDirectory(
  context: StoreContext,
  asked: readonly (Image | string)[],
  directory: string,
  options: SaveOptions = {},
): Promise<void> {
  const path = absolute(directory);
  await using stack = new AsyncDisposableStack();
  const members = async (): Promise<readonly ArchiveMember[]> => {
    const { images, open: openLayer } = stack.use(await plan(context, asked, options));
    return layoutMembers(images, openLayer);
  };
  try {
    await writeDirectory(path, members, { ...options, take: takeDirectory });
  } catch (error) {
    throw error instanceof Error && 'errno' in error && 'syscall' in error
      ? fileError(error, 'save to', fromText(path))
      : error;
  }
}

async function plan(context: StoreContext, asked: readonly (Image | string)[], options: SaveOptions): Promise<Plan> {
  const { database } = context;
  const rows = new Map<string, LayerRow>();
  const chains: (readonly LayerRow[])[] = [];
  const images = new Map<string, ImageToSave>();
  for (const one of asked) {
    const image = typeof one === 'string' ? await database.image(one) : await database.image(one.id);
    const layers = await database.imageLayers(image.id);
    chains.push(layers);
    const names = askedNames(one, image);
    const before = images.get(image.id);
    images.set(image.id, {
      names: [...new Set([...(before?.names ?? []), ...names])],
      config: Buffer.from(image.config),
      layers: layers.map((row) => {
        rows.set(row.diffId ?? '', row);
        return { diffId: row.diffId ?? image.id, sizeBytes: row.tarBytes };
      }),
    });
  }
  if (images.size === 0) throw new StorageError('invalid-argument', 'Cannot save: no image is named');
  await using stack = new AsyncDisposableStack();
  stack.use(await pinned(context, chains, options));
  const { compress = 'none' } = options;
  if (compress !== 'none') {
    const compressed = stack.use(await compressLayers(context, rows, compress, options));
    const blobOf = (layer: LayerToSave): LayerToSave => compressed.layers.get(layer.diffId) ?? layer;
    return {
      images: [...images.values()].map((image) => ({ ...image, layers: image.layers.map(blobOf) })),
      open: (layer) => compressed.open(layer),
      write: (...given) => compressed.write(...given),
      [Symbol.asyncDispose]: disposing(stack.move()),
    };
  }
  const rowOf = ({ diffId }: LayerToSave): LayerRow => {
    const row = rows.get(diffId);
    if (row === undefined) throw new StorageError('internal', `Cannot save: layer ${diffId} was not planned`);
    return row;
  };
  return {
    images: [...images.values()],
    open: (layer) => layerTar(context, rowOf(layer), watched(rowOf(layer), options)),
    async write(layer, to, { signal }) {
      const row = rowOf(layer);
      await layerTarTo(context, row, to, watched(row, { ...options, ...(signal === undefined ? {} : { signal }) }));
    },
    [Symbol.asyncDispose]: disposing(stack.move()),
  };
}

function disposing(stack: AsyncDisposableStack): () => Promise<void> {
  return () => stack.disposeAsync();
}

/** Asked by a name, an image goes out under that name; by id, under all it has. */
function askedNames(asked: Image | string, image: Image): readonly string[] {
  if (typeof asked !== 'string') return image.names;
  const named = image.names.filter(
    (name) => name === asked || name.endsWith(`/${asked}`) || name.endsWith(`/${asked}:latest`),
  );
  return named.length > 0 ? named : image.names;
}
