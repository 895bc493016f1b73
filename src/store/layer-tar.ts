import { StorageError } from '../base/errors.ts';
import type { ByteStream } from '../base/values.ts';
import { keptTar, verifyKept } from '../graph/blobs.ts';
import type { Watched } from '../graph/storage-driver.ts';
import { inRoot, type StoreContext } from './context.ts';
import type { LayerRow } from './rows.ts';

/** The tar that a registered layer came in as, byte for byte; verified by its diff id as it ends. */
export function layerTar(context: StoreContext, layer: LayerRow, options: Watched = {}): ByteStream {
  const { diffId, recordFile, keptFile } = layer;
  if (diffId !== undefined && recordFile !== undefined) {
    return context.driver.replay(layer.driverId, inRoot(context, recordFile), diffId, options);
  }
  if (diffId !== undefined && keptFile !== undefined) {
    return keptTar(context.threads, inRoot(context, keptFile), diffId, options);
  }
  throw noTar(layer);
}

/** Rejects with `corrupt` where the layer's tar would not be given back as it came in. */
export async function verifyLayer(context: StoreContext, layer: LayerRow, options: Watched = {}): Promise<void> {
  const { diffId, recordFile, keptFile } = layer;
  if (diffId !== undefined && recordFile !== undefined) {
    return context.driver.verify(layer.driverId, inRoot(context, recordFile), diffId, options);
  }
  if (diffId !== undefined && keptFile !== undefined) {
    return verifyKept(context.threads, inRoot(context, keptFile), diffId, options);
  }
  throw noTar(layer);
}

function noTar(layer: LayerRow): StorageError {
  return new StorageError('internal', `Layer "${layer.driverId}" has neither a split record nor a kept tar`, {
    layer: layer.driverId,
  });
}
