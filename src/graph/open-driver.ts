import { existsSync } from 'node:fs';
import { type ByteString, joinBytes, quote, toBytes } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { IDENTITY } from '../base/id-map.ts';
import { expecting } from '../base/kinds.ts';
import { type Log, SILENT } from '../base/log.ts';
import { absoluteBytes } from '../base/working-directory.ts';
import { chooseDriver, openLayerDriver } from '../driver/open.ts';
import { bareRunDirectory } from '../driver/run-directory.ts';
import { DRIVER } from './signatures.ts';
import { type StorageDriver, storageDriver } from './storage-driver.ts';
import { openThreads } from './threads.ts';

/** Which driver to open, and where. */
export interface OpenDriverOptions {
  /** The driver's home is `root/NAME`. */
  readonly root: string | Uint8Array;
  /** Absent: by the layers that are there, else the first that works. */
  readonly driver?: string;
  /** `key=value`, of any driver. */
  readonly options?: readonly string[];
  readonly log?: Log;
  readonly threads?: number;
  /** Where holds and locks live; default: by a hash of the home, for all who open it. A store names its own. */
  readonly run?: string | Uint8Array;
}

/** One driver without a store: its layers are the caller's to name and keep. */
export async function openStorageDriver(
  options: OpenDriverOptions,
): Promise<StorageDriver & { readonly because: string }> {
  const root = absoluteBytes(options.root);
  if (process.geteuid?.() !== 0) {
    throw new StorageError(
      'permission-denied',
      `Cannot open a driver in ${quote(root)}: only root can; run it as root`,
    );
  }
  const threads = await openThreads(options.threads);
  try {
    const { log = SILENT } = options;
    const choice = await chooseDriver(root, {
      options: options.options ?? [],
      perform: threads.perform,
      ...(options.driver === undefined ? {} : { name: options.driver }),
    });
    const run = options.run === undefined ? bareRunDirectory(choice.home) : absoluteBytes(options.run);
    const settings = { home: choice.home, run, options: choice.options, idMaps: IDENTITY, log };
    const driver = await openLayerDriver(choice.name, { ...settings, perform: threads.perform });
    const graph = storageDriver(driver, threads, joinBytes(run, 'locks' as ByteString));
    return Object.assign(expecting(graph, 'driver', DRIVER), { because: choice.because });
  } catch (error) {
    await threads[Symbol.asyncDispose]();
    throw error;
  }
}

/** Whether `root` holds a store, whose layers only the store may write. */
export function holdsStore(root: string | Uint8Array): boolean {
  return existsSync(toBytes(joinBytes(absoluteBytes(root), 'store.db' as ByteString)));
}
