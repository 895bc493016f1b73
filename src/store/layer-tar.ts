import { isStorageError, StorageError } from '../base/errors.ts';
import { keptTar, verifyKept } from '../graph/blobs.ts';
import type { Watched } from '../graph/fill.ts';
import { inRoot, type StoreContext } from './context.ts';
import type { LayerRow } from './rows.ts';

/** The tar that a registered layer came in as, byte for byte; verified by its diff id as it ends. */
export async function* layerTar(
  context: StoreContext,
  layer: LayerRow,
  options: Watched = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const { diffId, recordFile, keptFile } = layer;
  try {
    if (diffId !== undefined && recordFile !== undefined) {
      yield* context.driver.replay(layer.driverId, inRoot(context, recordFile), diffId, options);
    } else if (diffId !== undefined && keptFile !== undefined) {
      yield* keptTar(context.threads, inRoot(context, keptFile), diffId, options);
    } else {
      throw noTar(layer);
    }
  } catch (error) {
    throw await explained(context, layer, error);
  }
}

/** Rejects with `corrupt` where the layer's tar would not be given back as it came in. */
export async function verifyLayer(context: StoreContext, layer: LayerRow, options: Watched = {}): Promise<void> {
  const { diffId, recordFile, keptFile } = layer;
  try {
    if (diffId !== undefined && recordFile !== undefined) {
      return await context.driver.verify(layer.driverId, inRoot(context, recordFile), diffId, options);
    }
    if (diffId !== undefined && keptFile !== undefined) {
      return await verifyKept(context.threads, inRoot(context, keptFile), diffId, options);
    }
    throw noTar(layer);
  } catch (error) {
    throw await explained(context, layer, error);
  }
}

/** What is not there any more was removed by somebody, or is a fault of the store: only the database tells. */
async function explained({ database }: StoreContext, layer: LayerRow, error: unknown): Promise<unknown> {
  if (!isStorageError(error, 'corrupt') && !isStorageError(error, 'not-found')) return error;
  const what = layer.diffId ?? layer.driverId;
  const facts = { layer: layer.driverId, cause: error };
  if ((await database.layerByDriverId(layer.driverId)) === undefined) {
    return new StorageError('not-found', `Cannot read layer ${what}: its image was removed meanwhile`, facts);
  }
  if (error.code === 'corrupt') return error;
  return new StorageError('corrupt', `Cannot give layer ${what} back: its directory or record is gone`, facts);
}

function noTar(layer: LayerRow): StorageError {
  return new StorageError('internal', `Layer "${layer.driverId}" has neither a split record nor a kept tar`, {
    layer: layer.driverId,
  });
}
