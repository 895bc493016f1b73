import { existsSync } from 'node:fs';
import { type ByteString, quote, toBytes, toText } from '../base/bytes.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import { IDENTITY } from '../base/id-map.ts';
import { SILENT } from '../base/log.ts';
import { absoluteBytes } from '../base/working-directory.ts';
import type { LayerDriver } from '../driver/driver.ts';
import { chooseDriver, type DriverChoice, driversWithLayers, openLayerDriver } from '../driver/open.ts';
import { ownOptions, parseDriverOptions } from '../driver/options.ts';
import { lazyDriver } from '../graph/lazy-driver.ts';
import { type StorageDriver, storageDriver } from '../graph/storage-driver.ts';
import type { Threads } from '../graph/threads.ts';
import type { StoreContext } from './context.ts';
import { type Database, openDatabase } from './database.ts';
import { discard, withRoom } from './discard.ts';
import { imagesOf } from './images.ts';
import { layersOf, makeDirectory } from './layers.ts';
import { homeOf, layoutOf, refusal } from './layout.ts';
import type { WritableRow } from './rows.ts';
import { Sweeper } from './sweeper.ts';
import { Turns } from './turns.ts';
import type { Store, StoreOptions } from './types.ts';
import { upkeepOf } from './upkeep/upkeep.ts';

/**
 * Opens the store at `options.root`, made on first use, and takes up what dead processes left half done. Errors:
 * `unsupported` on another system or where no driver works, `permission-denied` without the right to mount,
 * `failed-precondition` where the directory is no store, is a newer one, or has another driver. `threads` are the
 * store's once it is open.
 */
export async function openStore(options: StoreOptions, threads: Threads): Promise<Store> {
  const { create = true, log = SILENT, driver: asked, driverOptions = [] } = options;
  options.signal?.throwIfAborted();
  const root = absoluteBytes(options.root);
  if (process.geteuid?.() !== 0) {
    throw new StorageError('permission-denied', `Cannot open the store ${quote(root)}: only root can; run it as root`);
  }
  let choice: DriverChoice | undefined;
  const database = await openDatabase(root, {
    create,
    inline: options.brief ?? false,
    ...(asked === undefined ? {} : { asked }),
    ...(options.patience === undefined ? {} : { patience: options.patience }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
    async choose(at) {
      refuseLayers(at);
      choice = await chooseDriver(at, {
        options: driverOptions,
        perform: threads.perform,
        ...(asked === undefined ? {} : { name: asked }),
      });
      return choice.name;
    },
  });
  try {
    const because = choice?.because ?? 'the store was made with it';
    const own = ownOptions(database.driver, driverOptions);
    parseDriverOptions(database.driver, own); // a wrong one is told now, not when a layer is first touched
    const { run, tmp } = database.layout;
    const left: StoreContext['left'] = new Map();
    const unended: StoreContext['unended'] = [];
    const turns = new Turns(run);
    const context = (layers: LayerDriver): StoreContext => ({
      database,
      driver: storageDriver(layers, threads, tmp),
      threads,
      log,
      left,
      unended,
      sweeper,
      turns,
    });
    const identity = {
      name: database.driver,
      home: homeOf(database.layout.root, database.driver),
      idMaps: IDENTITY,
    };
    const layers = lazyDriver(
      identity,
      async () => {
        const leftAside = (): void => sweeper.kick();
        const found = choice?.name === database.driver ? choice.found : undefined;
        const settings = {
          ...identity,
          run,
          options: own,
          log,
          perform: threads.perform,
          leftAside,
          ...(found === undefined ? {} : { found }),
        };
        // On a full disk its lock file may lack room, too.
        return withRoom({ database }, async () => {
          const opened = await openLayerDriver(database.driver, settings);
          await settle(context(opened));
          return opened;
        });
      },
      (error) => lost(database, error),
    );
    const sweeper = new Sweeper(layers, log, options.leftAside);
    return new OpenStore(context(layers), because);
  } catch (error) {
    await database[Symbol.asyncDispose]();
    throw error;
  }
}

/** A store is not made where a driver without one has layers: from then on their owner could not write them. */
function refuseLayers(root: ByteString): void {
  const drivers = driversWithLayers(root);
  // A store that another process made meanwhile has its database before its first layer.
  if (drivers.length === 0 || existsSync(toBytes(layoutOf(root).database))) return;
  const remedy = 'name another root, or use the layers by the driver alone ("layerstore driver")';
  throw refusal(
    'failed-precondition',
    root,
    `there is none, but the driver ${drivers.join(' and ')} has layers there already; a new store would take them from their owner; ${remedy}`,
  );
}

/** A layer that the driver cannot find and the store has: not the asker's mistake, but a directory that was taken away. */
async function lost(database: Database, error: unknown): Promise<unknown> {
  if (!isStorageError(error, 'not-found') || error.layer === undefined) return error;
  if ((await database.layerByDriverId(error.layer)) === undefined) return error;
  return new StorageError('corrupt', `${error.message}: the store has it, but its directory there is gone`, {
    layer: error.layer,
    remedy: 'put the directory back, or remove the images and layers that use it and load them again',
    cause: error,
  });
}

/**
 * Removes what dead makers announced; remakes the directory of a writable layer that lost it, and says so. What cannot
 * be done is told: a store with one bad layer still opens.
 */
async function settle(context: StoreContext): Promise<void> {
  const { database, driver, log } = context;
  const tell = (what: string, error: unknown): void =>
    log.warn(`${what}: ${error instanceof Error ? error.message : String(error)}`);
  try {
    await discard(context, await database.staleMakings());
  } catch (error) {
    tell('Left-overs of killed processes stay for now', error);
  }
  for (const row of await database.writables()) {
    if (await driver.has(row.driverId)) continue;
    try {
      await remake(context, row);
    } catch (error) {
      tell(`The directory of the writable layer "${row.name}" is missing and cannot be made anew`, error);
    }
  }
}

/** Between reading the row and this, another process may have removed the layer, or remade it. */
async function remake(context: StoreContext, row: WritableRow): Promise<void> {
  const { database, driver, log } = context;
  const isThere = async (): Promise<boolean> => (await database.layerByDriverId(row.driverId)) !== undefined;
  if (!(await isThere())) return;
  try {
    await makeDirectory(context, row);
  } catch (error) {
    if (isStorageError(error, 'already-exists')) return;
    throw error;
  }
  if (await isThere()) {
    log.warn(
      `The directory of the writable layer "${row.name}" was missing: made anew, what was written to it is lost`,
    );
  } else {
    await driver.remove(row.driverId);
  }
}

class OpenStore implements Store {
  readonly root: string;
  readonly rootPath: ByteString;
  readonly driver: Store['driver'];
  readonly images: Store['images'];
  readonly layers: Store['layers'];
  readonly upkeep: Store['upkeep'];
  readonly #driver: StorageDriver;
  readonly #database: Database;
  readonly #threads: Threads;
  readonly #sweeper: Sweeper;

  constructor(context: StoreContext, because: string) {
    const { database, driver, threads, sweeper } = context;
    this.#driver = driver;
    this.#database = database;
    this.#threads = threads;
    this.#sweeper = sweeper;
    this.rootPath = database.layout.root;
    this.root = toText(this.rootPath);
    this.driver = { name: driver.name, home: toText(driver.home), because, status: () => driver.status() };
    this.images = imagesOf(context);
    this.layers = layersOf(context);
    this.upkeep = upkeepOf(context);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#sweeper[Symbol.asyncDispose]();
    const isIdle = this.#threads.jobs.busy === 0;
    const ended = this.#driver[Symbol.asyncDispose]();
    if (!isIdle) await ended; // what fails by that takes back what it did
    await Promise.all([ended, this.#database[Symbol.asyncDispose]()]);
    await this.#threads[Symbol.asyncDispose]();
  }
}
