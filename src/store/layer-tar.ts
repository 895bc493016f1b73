import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import type { Lending, Watched } from '../graph/apply.ts';
import { keptTar, keptTarTo, verifyKept } from '../graph/blobs.ts';
import type { CompressOptions } from '../graph/crew.ts';
import type { PackedBlob } from '../graph/jobs/out.ts';
import type { FilePlace } from '../graph/storage-driver.ts';
import { inRoot, type StoreContext } from './context.ts';
import type { LayerRow } from './rows.ts';

/** The tar that a registered layer came in as, byte for byte; verified by its diff id as it ends. */
export async function* layerTar(
  context: StoreContext,
  layer: LayerRow,
  options: Watched & Lending = {},
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

/** As `layerTar`, into an open file, perhaps compressed: then it answers what the tar became. */
export function layerTarTo(
  context: StoreContext,
  layer: LayerRow,
  to: FilePlace,
  options: Watched & CompressOptions = {},
): Promise<PackedBlob | undefined> {
  const { driver, threads } = context;
  return giveBack(context, layer, {
    replay: (record, diffId) => driver.replayTo(layer.driverId, record, diffId, to, options),
    unkeep: (kept, diffId) => keptTarTo(threads, kept, diffId, to, options),
  });
}

/** Rejects with `corrupt` where the layer's tar would not be given back as it came in. */
export function verifyLayer(context: StoreContext, layer: LayerRow, options: Watched = {}): Promise<void> {
  const { driver, threads } = context;
  return giveBack(context, layer, {
    replay: (record, diffId) => driver.verify(layer.driverId, record, diffId, options),
    unkeep: (kept, diffId) => verifyKept(threads, kept, diffId, options),
  });
}

/** The two ways a tar is given back. */
interface Ways<T> {
  replay(record: ByteString, diffId: Digest): Promise<T>;
  unkeep(kept: ByteString, diffId: Digest): Promise<T>;
}

async function giveBack<T>(context: StoreContext, layer: LayerRow, ways: Ways<T>): Promise<T> {
  const { diffId, recordFile, keptFile } = layer;
  try {
    if (diffId !== undefined && recordFile !== undefined) {
      return await ways.replay(inRoot(context, recordFile), diffId);
    }
    if (diffId !== undefined && keptFile !== undefined) return await ways.unkeep(inRoot(context, keptFile), diffId);
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
