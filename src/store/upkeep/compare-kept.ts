import { isStorageError } from '../../base/errors.ts';
import type { Change } from '../../base/values.ts';
import { keptTar } from '../../graph/blobs.ts';
import { inRoot, newLayerId, newLayerMakings, type StoreContext } from '../context.ts';
import { discardOrWarn } from '../discard.ts';
import type { LayerRow } from '../rows.ts';

/**
 * How a layer whose tar is kept differs from what that tar makes: unpacked once more, beside it, and compared. Costs the
 * layer's space meanwhile; where there is none, it says so and the layer counts as unchanged.
 */
export async function compareWithKept(
  context: StoreContext,
  { driverId, parent, diffId, keptFile }: LayerRow,
  signal: AbortSignal | undefined,
): Promise<Change[]> {
  if (diffId === undefined || keptFile === undefined) return [];
  const { database, driver, threads, log } = context;
  const id = newLayerId();
  const changes: Change[] = [];
  const abortable = signal === undefined ? {} : { signal };
  try {
    await database.begin(newLayerMakings(id));
    await driver.create(id, { writable: false, ...(parent === undefined ? {} : { parent }), ...abortable });
    const tar = keptTar(threads, inRoot(context, keptFile), diffId, abortable);
    await driver.apply(id, tar, { fresh: true, ...abortable });
    for await (const change of driver.changes(driverId, id, { rendering: 'core', ...abortable })) changes.push(change);
  } catch (error) {
    if (!isStorageError(error, 'resource-exhausted')) throw error;
    log.warn(`The tree of layer ${diffId} is not compared with its tar: ${error.message}`);
  } finally {
    await discardOrWarn(context, [id]);
  }
  return changes;
}
