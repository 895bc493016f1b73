import { fromText, quote } from '../../base/bytes.ts';
import { isStorageError, StorageError } from '../../base/errors.ts';
import type { Image, Store, WritableLayer } from '../../store/types.ts';
import { shownReference } from './format.ts';

export type Found =
  | { readonly kind: 'image'; readonly image: Image }
  | { readonly kind: 'layer'; readonly layer: WritableLayer };

/** An image or a writable layer by `name`. A full name wins over an id's prefix; a prefix of both is refused. */
export async function findEither(store: Store, name: string): Promise<Found> {
  const [image, layer] = await Promise.all([attempt(store.images.get(name)), attempt(store.layers.get(name))]);
  if ('refusal' in image && 'refusal' in layer) {
    // A prefix that fits several, or text that cannot be a name, is worth more to people than the other's "not found".
    for (const { refusal } of [image, layer]) if (!isStorageError(refusal, 'not-found')) throw refusal;
    throw new StorageError(
      'not-found',
      `Cannot find ${quote(fromText(name))}: no image and no writable layer has this name or id`,
      { remedy: '"layerstore images" and "layerstore ls" list what there is' },
    );
  }
  if ('refusal' in layer) return { kind: 'image', image: (image as { found: Image }).found };
  if ('refusal' in image) return { kind: 'layer', layer: layer.found };
  if (isNameOf(image.found, name)) return { kind: 'image', image: image.found };
  if (layer.found.name === name || layer.found.id === name) return { kind: 'layer', layer: layer.found };
  throw new StorageError(
    'invalid-argument',
    `Cannot choose what ${quote(fromText(name))} means: an image's id and a writable layer's begin so; give more of it`,
  );
}

/** Whole, not by a prefix of the id. */
function isNameOf(image: Image, name: string): boolean {
  if (image.id === name) return true;
  return image.names.some((full) => full === name || [name, `${name}:latest`].includes(shownReference(full)));
}

async function attempt<T>(promise: Promise<T>): Promise<{ readonly found: T } | { readonly refusal: unknown }> {
  try {
    return { found: await promise };
  } catch (refusal) {
    if (isStorageError(refusal, 'not-found') || isStorageError(refusal, 'invalid-argument')) return { refusal };
    throw refusal;
  }
}
