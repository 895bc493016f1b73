import { existsSync } from 'node:fs';
import { type ByteString, quote, toBytes, toText } from '../../base/bytes.ts';
import { isStorageError } from '../../base/errors.ts';
import type { Change } from '../../base/values.ts';
import { inRoot, type StoreContext } from '../context.ts';
import { verifyLayer } from '../layer-tar.ts';
import type { LayerRow } from '../rows.ts';
import type { Fault, Upkeep } from '../types.ts';
import { compareWithKept } from './compare-kept.ts';

/**
 * Compares what the database says with what is on disk: rows whose directory or record is gone, directories that no
 * row knows. `deep` also compares each tree with its record or kept tar, and gives every layer back against its diff id.
 */
export async function checkStore(
  context: StoreContext,
  options: Parameters<Upkeep['check']>[0] = {},
): Promise<readonly Fault[]> {
  const { database, driver } = context;
  const faults: Fault[] = [...(await database.check())];
  const rows = await database.allLayers();
  for (const row of rows) {
    options.signal?.throwIfAborted();
    const found = [
      ...(await faultsOf(context, row)),
      ...(options.deep === true ? await deepFaultsOf(context, row, options) : []),
    ];
    // Another process may have removed the layer while we looked at it.
    if (found.length > 0 && (await database.layerByDriverId(row.driverId)) !== undefined) faults.push(...found);
  }
  const listed = await driver.list();
  const known = new Set(await database.known(listed));
  for (const id of listed) {
    if (known.has(id) || !(await driver.has(id))) continue;
    faults.push({
      what: 'a layer directory that the store does not know',
      where: toText(`${driver.home}/${id}` as ByteString),
      remedy: 'Made by another program, or left from a restored database: look at it, then remove it by hand',
    });
  }
  return faults;
}

const CHANGED: Readonly<Record<Change['kind'], string>> = {
  add: 'it was added',
  modify: 'it is not as its tar says',
  delete: 'it is gone',
  rename: 'it was moved',
};

async function deepFaultsOf(
  context: StoreContext,
  row: LayerRow,
  { signal, onProgress }: NonNullable<Parameters<Upkeep['check']>[0]>,
): Promise<Fault[]> {
  const { diffId, recordFile } = row;
  if (diffId === undefined) return [];
  const remedy = 'Load its image again after removing it';
  const faults: Fault[] = [];
  try {
    if (recordFile !== undefined) {
      const { driver } = context;
      const found = await driver.audit(
        row.driverId,
        inRoot(context, recordFile),
        signal === undefined ? {} : { signal },
      );
      for (const { path, what } of found.faults) {
        faults.push({
          what: `${quote(`/${path}` as ByteString)} was changed: ${what}`,
          where: row.driverId,
          remedy,
        });
      }
      if (found.more > 0) faults.push({ what: `${found.more} more were changed`, where: row.driverId, remedy });
    }
    for (const { kind, path } of await compareWithKept(context, row, signal)) {
      faults.push({ what: `${quote(path)} was changed: ${CHANGED[kind]}`, where: row.driverId, remedy });
    }
    await verifyLayer(context, row, {
      ...(signal === undefined ? {} : { signal }),
      onBytes: (bytesDone) => onProgress?.({ step: 'read', layer: diffId, bytesDone, bytesTotal: row.tarBytes }),
    });
  } catch (error) {
    if (signal?.aborted || !isStorageError(error)) throw error;
    faults.push({ what: error.message, where: row.driverId, remedy });
  }
  return faults;
}

async function faultsOf(context: StoreContext, row: LayerRow): Promise<Fault[]> {
  const faults: Fault[] = [];
  const remedy = 'Remove the images that use it and load them again';
  if (!(await context.driver.has(row.driverId))) {
    faults.push({ what: 'the directory of a layer is missing', where: row.driverId, remedy });
  } else {
    try {
      await context.driver.metadata(row.driverId); // follows the links to all that it lies on
    } catch (error) {
      if (!isStorageError(error)) throw error;
      faults.push({ what: error.message, where: row.driverId, remedy });
    }
  }
  for (const file of [row.recordFile, row.keptFile]) {
    if (file === undefined || existsSync(toBytes(inRoot(context, file)))) continue;
    faults.push({ what: 'the record of a layer is missing', where: file, remedy });
  }
  return faults;
}
