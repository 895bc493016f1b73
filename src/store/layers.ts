import { fromText } from '../base/bytes.ts';
import { isStorageError, record, StorageError } from '../base/errors.ts';
import { expecting } from '../base/kinds.ts';
import type { LayerId } from '../base/values.ts';
import { absolute } from '../base/working-directory.ts';
import type { Mounted } from '../driver/driver.ts';
import { randomBytes } from '../linux/random.ts';
import { commitWritable } from './commit.ts';
import { heeding, newLayerId, type StoreContext, undoing } from './context.ts';
import { discard, discardOrWarn, withRoom } from './discard.ts';
import { layerName } from './given-name.ts';
import { failing, unlessGone } from './gone.ts';
import { isHeld } from './held.ts';
import { shownPath } from './layout.ts';
import type { LayerRow, NewWritable, WritableRow } from './rows.ts';
import { LAYER, LAYERS } from './signatures.ts';
import type { CreateLayerOptions, Image, Layers, WritableLayer } from './types.ts';

/** The hold that `layerstore mount` keeps until `umount`. */
const HOLD = 'mount';

/** The layers of an open store. */
export function layersOf(context: StoreContext): Layers {
  const { database, driver } = context;
  const top = async (image: Image | string): Promise<LayerId> => {
    const id = typeof image === 'string' ? image : image.id;
    const layer = (await database.imageLayers(id)).at(-1);
    if (layer !== undefined) return layer.driverId;
    throw new StorageError('failed-precondition', `Cannot mount "${id}": the image has no layers`);
  };
  const layers: Layers = {
    create: (base, options) => createWritable(context, base, options),
    get: async (name) => new Writable(context, await database.writable(name)),
    list: async () => (await database.writables()).map((row) => new Writable(context, row)),
    remove: async (name, options) => new Writable(context, await database.writable(name)).remove(options),
    stored: (image) => database.storedLayers(typeof image === 'object' ? image.id : image),
    async view(image, options = {}): Promise<Mounted> {
      const layer = await top(image);
      const mounting = driver.mount(layer, {
        readonly: true,
        ...(options.hold === true ? { holdName: HOLD } : {}),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
      return mounting.catch(async (error: unknown) => {
        const isThere = async (): Promise<boolean> => (await database.layerByDriverId(layer)) !== undefined;
        throw await unlessGone(error, isThere, `Cannot mount ${typeof image === 'string' ? image : image.id}`);
      });
    },
    releaseAt: (path) => releaseAt(context, path),
    releaseView: async (image) => driver.release(await top(image), HOLD),
  };
  return expecting(layers, 'layers', LAYERS);
}

async function releaseAt(context: StoreContext, path: string): Promise<boolean> {
  const { database, driver } = context;
  const wanted = fromText(absolute(path));
  for (const [id] of path.matchAll(/[0-9a-f]{64}/g)) {
    if (!(await driver.has(id as LayerId))) continue;
    const { merged, upper } = await driver.metadata(id as LayerId);
    const own = wanted.startsWith(`${driver.home}/`) && wanted.endsWith(`/${id}`); // a mount point named by the id
    if (!own && wanted !== merged && wanted !== upper) continue;
    const row = (await database.writables()).find(({ driverId }) => driverId === id);
    const layer = row === undefined ? undefined : new Writable(context, row);
    if (await (layer?.unmount() ?? driver.release(id as LayerId, HOLD))) return true;
    if (await driver.isMounted(id as LayerId)) return false;
  }
  throw new StorageError(
    'not-found',
    `Cannot unmount ${shownPath(path)}: nothing of this store is mounted there; "layerstore ls" lists what is mounted`,
  );
}

async function createWritable(
  context: StoreContext,
  asked: Image | string | undefined,
  options: CreateLayerOptions = {},
): Promise<WritableLayer> {
  const { driver } = context;
  const { database } = heeding(context, options);
  const { base, parent } = await baseOf(context, asked);
  const driverId = newLayerId();
  const { settings, signal } = options;
  const name = options.name === undefined ? `layer-${randomBytes(4).toString('hex')}` : layerName(options.name);
  await database.begin([{ kind: 'layer', name: driverId }]);
  let row: WritableRow;
  try {
    await driver.create(driverId, {
      writable: true,
      ...(parent === undefined ? {} : { parent }),
      ...(settings === undefined ? {} : { settings }),
      ...(signal === undefined ? {} : { signal }),
    });
    const { mode } = await driver.capabilities();
    row = await database.createWritable({
      name,
      driverId,
      overlayMode: mode,
      ...(base === undefined ? {} : { base }),
      ...(settings === undefined ? {} : { settings }),
    });
  } catch (error) {
    await discardOrWarn(undoing(context), [driverId]);
    throw error;
  }
  if (row.parent === parent) return new Writable(context, row);
  // The image was removed and loaded again meanwhile: the directory lies on layers that are gone. Whoever gives up here
  // waits all the same: the row is the truth, and its directory goes only after it.
  await context.database.removeWritable(driverId);
  await discard(context, [{ kind: 'layer', name: driverId }]);
  return createWritable(context, asked, options);
}

interface Base {
  readonly base?: NonNullable<NewWritable['base']>;
  readonly parent?: LayerId;
}

async function baseOf({ database }: StoreContext, asked: Image | string | undefined): Promise<Base> {
  if (asked === undefined) return {};
  const top = (layers: readonly LayerRow[]): Pick<Base, 'parent'> => {
    const parent = layers.at(-1)?.driverId;
    return parent === undefined ? {} : { parent };
  };
  try {
    const image = await database.image(typeof asked === 'string' ? asked : asked.id);
    return { base: { image: image.id }, ...top(await database.imageLayers(image.id)) };
  } catch (error) {
    // What names no image may be a chain of layers.
    if (typeof asked !== 'string' || !isStorageError(error, 'not-found')) throw error;
    const [chainId, ...others] = await database.chainsFrom(asked);
    if (chainId === undefined) throw error;
    if (others.length > 0) {
      throw new StorageError(
        'invalid-argument',
        `Cannot tell which chain ${shownPath(asked)} is: several begin so; give more of it`,
      );
    }
    return { base: { chainId }, ...top(await database.layersByChain([chainId])) };
  }
}

/** The directory of a writable layer's row; also what opening does for a row whose directory is missing. */
export async function makeDirectory(context: StoreContext, row: WritableRow, signal?: AbortSignal): Promise<void> {
  await context.driver.create(row.driverId, {
    writable: true,
    settings: row.settings,
    ...(row.parent === undefined ? {} : { parent: row.parent }),
    ...(signal === undefined ? {} : { signal }),
  });
}

/** An error of the driver's about a writable layer, with the layer's name in place of its id. */
function named(error: unknown, { driverId, name }: WritableRow): unknown {
  if (!isStorageError(error) || error.layer !== driverId) return error;
  const { code, message, stack: _, cause: __, ...facts } = record(error);
  const text = message.replace(`layer "${driverId}"`, () => `layer ${shownPath(name)}`);
  return text === message ? error : new StorageError(code, text, { ...facts, cause: error });
}

class Writable implements WritableLayer {
  readonly id: string;
  readonly name: string;
  readonly image?: NonNullable<WritableRow['image']>;
  readonly chainId?: NonNullable<WritableRow['chainId']>;
  declare readonly createdAt: string;
  readonly #context: StoreContext;
  readonly #row: WritableRow;

  constructor(context: StoreContext, row: WritableRow) {
    this.#context = context;
    this.#row = row;
    this.id = row.driverId;
    this.name = row.name;
    if (row.image !== undefined) this.image = row.image;
    if (row.chainId !== undefined) this.chainId = row.chainId;
    // When it is asked for: the first date of a process has V8 look for the local time zone (0.3 ms).
    const createdAt = (): string => new Date(Number(row.createdNs / 1_000_000n)).toISOString();
    Object.defineProperty(this, 'createdAt', { get: createdAt, enumerable: true });
    expecting(this as WritableLayer, 'layer', LAYER);
  }

  mount(options: Parameters<WritableLayer['mount']>[0] = {}): Promise<Mounted> {
    return this.#named(
      this.#context.driver.mount(this.#row.driverId, {
        mode: this.#row.overlayMode,
        ...(options.hold === true ? { holdName: HOLD } : {}),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      }),
    );
  }

  unmount(): Promise<boolean> {
    return this.#named(this.#context.driver.release(this.#row.driverId, HOLD));
  }

  async #named<T>(call: Promise<T>): Promise<T> {
    try {
      return await call;
    } catch (error) {
      throw await this.#known(error);
    }
  }

  /** The driver knows layers by ids; people gave this one a name. */
  async #known(error: unknown): Promise<unknown> {
    const { driverId, name } = this.#row;
    const isThere = async (): Promise<boolean> =>
      (await this.#context.database.writables()).some((row) => row.driverId === driverId);
    return unlessGone(named(error, this.#row), isThere, `Cannot use layer ${shownPath(name)}`);
  }

  isMounted(): Promise<boolean> {
    return this.#context.driver.isMounted(this.#row.driverId);
  }

  changes(options: Parameters<WritableLayer['changes']>[0] = {}): ReturnType<WritableLayer['changes']> {
    const mode = this.#row.overlayMode;
    const changes = this.#context.driver.changes(this.#row.driverId, this.#row.parent, { ...options, mode });
    return failing(changes, (error) => this.#known(error));
  }

  explain(options: Parameters<WritableLayer['explain']>[0] = {}): Promise<string> {
    const { driver } = this.#context;
    const { driverId, parent, overlayMode: mode } = this.#row;
    return this.#named(driver.explain(driverId, parent, { ...options, mode }));
  }

  diff(options: Parameters<WritableLayer['diff']>[0] = {}): ReturnType<WritableLayer['diff']> {
    const { onProgress, xattrs, compress, signal, lend, onNote } = options;
    const tar = this.#context.driver.diff(this.#row.driverId, this.#row.parent, {
      mode: this.#row.overlayMode,
      ...(signal === undefined ? {} : { signal }),
      ...(xattrs === undefined ? {} : { xattrs }),
      ...(compress === undefined ? {} : { compress }),
      ...(lend === undefined ? {} : { lend }),
      ...(onNote === undefined ? {} : { onNote }),
      ...(onProgress === undefined ? {} : { onBytes: (bytesDone) => onProgress({ step: 'pack', bytesDone }) }),
    });
    return failing(tar, (error) => this.#known(error));
  }

  sizeBytes(): Promise<number> {
    const { driver } = this.#context;
    return this.#named(driver.diffSize(this.#row.driverId, this.#row.parent, { mode: this.#row.overlayMode }));
  }

  commit(...[reference, options]: Parameters<WritableLayer['commit']>): ReturnType<WritableLayer['commit']> {
    return this.#named(commitWritable(this.#context, this.#row, reference, options));
  }

  async remove(options: { readonly force?: boolean } = {}): Promise<void> {
    await withRoom(this.#context, () => this.#remove(options.force ?? false));
  }

  async #remove(force: boolean): Promise<void> {
    const { database } = this.#context;
    const { driverId, name } = this.#row;
    if (force) while (await this.unmount()) {} // every named hold
    if (await isHeld(this.#context, driverId)) {
      throw new StorageError('busy', `Cannot remove layer "${name}": it is mounted; unmount it first`, { layer: name });
    }
    await database.removeWritable(driverId);
    await discard(this.#context, [{ kind: 'layer', name: driverId }], { later: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Only a handle: the layer stays, and nothing is open.
  }
}
