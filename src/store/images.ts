import { asDigest, type Digest } from '../base/digest.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import { expecting } from '../base/kinds.ts';
import { absolute } from '../base/working-directory.ts';
import type { Lending, Noting } from '../graph/apply.ts';
import { parseConfig } from '../oci/config.ts';
import type { StoreContext } from './context.ts';
import { removeUnreached, withRoom } from './discard.ts';
import { givenName } from './given-name.ts';
import { failing, unlessGone } from './gone.ts';
import { isHeld } from './held.ts';
import { shownPath } from './layout.ts';
import { loadImages } from './load.ts';
import type { LayerRow, Removal } from './rows.ts';
import { saveDirectory, saveImages, saveTo } from './save.ts';
import { IMAGES } from './signatures.ts';
import type { HistoryEntry, Image, Images, Progressing } from './types.ts';

/** The images of an open store. */
export function imagesOf(context: StoreContext): Images {
  const { database } = context;
  const nameOf = (image: Image | string): string => (typeof image === 'string' ? image : image.id);
  const images: Images = {
    load: (source, options) => loadImages(context, typeof source === 'string' ? absolute(source) : source, options),
    save: (images, options) => saveImages(context, images, options),
    saveTo: (images, fd, options) => saveTo(context, images, fd, options),
    saveDirectory: (images, directory, options) => saveDirectory(context, images, directory, options),
    list: () => database.images(),
    get: (name) => database.image(name),
    tag: (image, reference) => database.tag(nameOf(image), givenName(reference)),
    async remove(name, options) {
      const [result] = await removeImages(context, [name], options);
      return result ?? { untagged: [] };
    },
    removeAll: (names, options) => removeImages(context, names, options),
    async history(image) {
      const found = await database.image(nameOf(image));
      return historyOf(found, await database.imageLayers(found.id));
    },
    export: (name, options) => exportTree(context, name, options),
  };
  return expecting(images, 'images', IMAGES);
}

/** The whole tree of an image, or of a writable layer, as one tar. */
async function* exportTree(
  context: StoreContext,
  name: string,
  options: Progressing & Lending & Noting = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const { onProgress, signal, lend, onNote } = options;
  const { driverId, overlayMode: mode } = await exportedLayer(context, name);
  const tar = context.driver.diff(driverId, undefined, {
    mode,
    ...(signal === undefined ? {} : { signal }),
    ...(lend === undefined ? {} : { lend }),
    ...(onNote === undefined ? {} : { onNote }),
    ...(onProgress === undefined ? {} : { onBytes: (bytesDone) => onProgress({ step: 'pack', bytesDone }) }),
  });
  const isThere = async (): Promise<boolean> => (await context.database.layerByDriverId(driverId)) !== undefined;
  yield* failing(tar, (error) => unlessGone(error, isThere, `Cannot export ${shownPath(name)}`));
}

/** A writable layer's name comes before an image's: it is the one that was given here. */
async function exportedLayer(context: StoreContext, name: string): Promise<Pick<LayerRow, 'driverId' | 'overlayMode'>> {
  const { database } = context;
  try {
    return await database.writable(name);
  } catch (error) {
    if (!isStorageError(error, 'not-found')) throw error;
  }
  const layer = (await database.imageLayers(name)).at(-1);
  if (layer !== undefined) return layer;
  throw new StorageError('failed-precondition', `Cannot export "${name}": the image has no layers`);
}

async function removeImages(
  context: StoreContext,
  names: readonly string[],
  options: { readonly force?: boolean } | undefined,
): Promise<Removal['results']> {
  return withRoom(context, async () => {
    await refuseViewed(context, names, options?.force ?? false);
    const { results, unreached } = await context.database.removeImages(names, options);
    await removeUnreached(context, unreached);
    return results;
  });
}

/** A view is a mount without a row: the image that it shows is *busy* before its last name goes. */
async function refuseViewed(context: StoreContext, names: readonly string[], force: boolean): Promise<void> {
  const { database } = context;
  const asked = Map.groupBy(await Promise.all(names.map((name) => database.image(name))), ({ id }) => id);
  for (const [id, images] of asked) {
    if (!force && images.length < (images[0]?.names.length ?? 0)) continue; // it keeps a name, or its id is refused
    const top = (await database.imageLayers(id)).at(-1);
    if (top === undefined || !(await isHeld(context, top.driverId))) continue;
    throw new StorageError('busy', `Cannot remove image "${id}": a view of it is mounted; unmount it first`, {
      layer: top.driverId,
    });
  }
}

/** Newest first, as `docker history`; entries that made a layer are joined with the layers, bottom first. */
function historyOf(image: Image, layers: readonly LayerRow[]): HistoryEntry[] {
  const { history } = parseConfig(image.config, `the config ${image.id}`);
  let next = 0;
  const entries = history.map((entry): HistoryEntry => {
    const layer = entry.emptyLayer ? undefined : layers[next++];
    return {
      emptyLayer: entry.emptyLayer,
      ...(entry.created === undefined ? {} : { createdAt: entry.created }),
      ...(entry.createdBy === undefined ? {} : { createdBy: entry.createdBy }),
      ...(entry.comment === undefined ? {} : { comment: entry.comment }),
      ...ofLayer(layer),
    };
  });
  // A config may tell less than it has layers for.
  for (const layer of layers.slice(next)) entries.push({ emptyLayer: false, ...ofLayer(layer) });
  return entries.toReversed();
}

function ofLayer(layer: LayerRow | undefined): { diffId?: Digest; sizeBytes?: number } {
  const diffId = asDigest(layer?.diffId);
  return layer === undefined || diffId === undefined ? {} : { diffId, sizeBytes: layer.sizeBytes };
}
