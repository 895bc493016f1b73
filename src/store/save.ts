import { write } from 'node:fs';
import { promisify } from 'node:util';
import { StorageError } from '../base/errors.ts';
import type { ByteStream } from '../base/values.ts';
import { absolute } from '../base/working-directory.ts';
import {
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
import type { StoreContext } from './context.ts';
import { layerTar, layerTarTo } from './layer-tar.ts';
import { fileError } from './layout.ts';
import type { LayerRow } from './rows.ts';
import type { Image, SaveOptions } from './types.ts';

interface Plan {
  /** By diff id. */
  readonly rows: ReadonlyMap<string, LayerRow>;
  readonly images: readonly ImageToSave[];
  readonly open: OpenLayer;
}

/** One archive with the images that were asked for; each layer once. */
export async function* saveImages(
  context: StoreContext,
  asked: readonly (Image | string)[],
  options: SaveOptions = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const { images, open: openLayer } = await plan(context, asked, options);
  const tar = {
    mtimeNs: BigInt(options.epochSeconds ?? 0) * 1_000_000_000n,
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  };
  yield* options.format === 'docker' ? planDocker(images, openLayer, tar) : planOci(images, openLayer, tar);
}

/** As `saveImages`, into an open empty file, by as many threads as there are; the descriptor stays the caller's. */
export async function saveTo(
  context: StoreContext,
  asked: readonly (Image | string)[],
  fd: number,
  options: SaveOptions = {},
): Promise<void> {
  const { images, rows, open: openLayer } = await plan(context, asked, options);
  const members = (options.format === 'docker' ? dockerMembers : ociMembers)(images, openLayer);
  const failed = new AbortController();
  const signal = options.signal === undefined ? failed.signal : AbortSignal.any([options.signal, failed.signal]);
  let failure: { readonly error: unknown } | undefined;
  const note = (error: unknown): void => {
    failure ??= { error };
    failed.abort(error);
  };
  const writing: Promise<void>[] = [];
  const mtimeNs = BigInt(options.epochSeconds ?? 0) * 1_000_000_000n;
  for (const piece of piecesOf(members, { mtimeNs })) {
    const { offset } = piece;
    if ('bytes' in piece) {
      if (piece.bytes.length > 0) writing.push(writeAt(fd, piece.bytes, offset).catch(note));
      continue;
    }
    const { diffId } = piece.layer;
    const row = rows.get(diffId) as LayerRow;
    const bytesTotal = row.tarBytes;
    const watched = {
      signal,
      onBytes: (bytesDone: number) => options.onProgress?.({ step: 'pack', layer: diffId, bytesDone, bytesTotal }),
    };
    writing.push(layerTarTo(context, row, { fd, offset }, watched).catch(note));
  }
  await Promise.all(writing);
  options.signal?.throwIfAborted();
  if (failure !== undefined) throw failure.error;
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
  const { images, open: openLayer } = await plan(context, asked, options);
  try {
    await writeDirectory(path, layoutMembers(images, openLayer), options);
  } catch (error) {
    throw error instanceof Error && 'errno' in error && 'syscall' in error ? fileError(error, 'save to', path) : error;
  }
}

async function plan(context: StoreContext, asked: readonly (Image | string)[], options: SaveOptions): Promise<Plan> {
  const { database } = context;
  const rows = new Map<string, LayerRow>();
  const images = new Map<string, ImageToSave>();
  for (const one of asked) {
    const image = typeof one === 'string' ? await database.image(one) : await database.image(one.id);
    const layers = await database.imageLayers(image.id);
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
  const openLayer = (layer: LayerToSave): ByteStream => {
    const row = rows.get(layer.diffId);
    if (row === undefined) throw new StorageError('internal', `Cannot save: layer ${layer.diffId} was not planned`);
    const bytesTotal = row.tarBytes;
    return layerTar(context, row, {
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      onBytes: (bytesDone) => options.onProgress?.({ step: 'pack', layer: layer.diffId, bytesDone, bytesTotal }),
    });
  };
  return { rows, images: [...images.values()], open: openLayer };
}

/** Asked by a name, an image goes out under that name; by id, under all it has. */
function askedNames(asked: Image | string, image: Image): readonly string[] {
  if (typeof asked !== 'string') return image.names;
  const named = image.names.filter(
    (name) => name === asked || name.endsWith(`/${asked}`) || name.endsWith(`/${asked}:latest`),
  );
  return named.length > 0 ? named : image.names;
}
