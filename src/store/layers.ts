import { randomBytes } from 'node:crypto';
import { asDigest } from '../base/digest.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';
import type { Mounted } from '../driver/driver.ts';
import { commitWritable } from './commit.ts';
import { newLayerId, type StoreContext } from './context.ts';
import { discard } from './discard.ts';
import type { WritableRow } from './rows.ts';
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
  return {
    create: (base, options) => createWritable(context, base, options),
    get: async (name) => new Writable(context, await database.writable(name)),
    list: async () => (await database.writables()).map((row) => new Writable(context, row)),
    remove: async (name, options) => new Writable(context, await database.writable(name)).remove(options),
    stored: (image) => database.storedLayers(typeof image === 'object' ? image.id : image),
    async view(image, options = {}): Promise<Mounted> {
      return driver.mount(await top(image), {
        readonly: true,
        ...(options.hold === true ? { holdName: HOLD } : {}),
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
    },
    releaseView: async (image) => driver.release(await top(image), HOLD),
  };
}

async function createWritable(
  context: StoreContext,
  base: Image | string | undefined,
  options: CreateLayerOptions = {},
): Promise<WritableLayer> {
  const { database, driver } = context;
  const driverId = newLayerId();
  const row = await database.createWritable({
    name: options.name ?? `layer-${randomBytes(4).toString('hex')}`,
    driverId,
    ...(await baseOf(context, base)),
    ...(options.settings === undefined ? {} : { settings: options.settings }),
  });
  try {
    await makeDirectory(context, row, options.signal);
  } catch (error) {
    await database.removeWritable(driverId);
    await discard(context, [{ kind: 'layer', name: driverId }]);
    throw error;
  }
  context.log.debug(`writable layer ${driverId} made by ${driver.name}`);
  return new Writable(context, row);
}

async function baseOf(
  context: StoreContext,
  base: Image | string | undefined,
): Promise<{ readonly base?: NonNullable<Parameters<StoreContext['database']['createWritable']>[0]['base']> }> {
  if (base === undefined) return {};
  try {
    const image = await context.database.image(typeof base === 'string' ? base : base.id);
    return { base: { image: image.id } };
  } catch (error) {
    // What names no image may be a chain of layers.
    const chainId = asDigest(base);
    if (chainId === undefined || !isStorageError(error, 'not-found')) throw error;
    const [layer] = await context.database.layersByChain([chainId]);
    if (layer === undefined) throw error;
    return { base: { chainId } };
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

class Writable implements WritableLayer {
  readonly id: string;
  readonly name: string;
  readonly image?: NonNullable<WritableRow['image']>;
  readonly createdAt: string;
  readonly #context: StoreContext;
  readonly #row: WritableRow;

  constructor(context: StoreContext, row: WritableRow) {
    this.#context = context;
    this.#row = row;
    this.id = row.driverId;
    this.name = row.name;
    if (row.image !== undefined) this.image = row.image;
    this.createdAt = new Date(Number(row.createdNs / 1_000_000n)).toISOString();
  }

  mount(options: Parameters<WritableLayer['mount']>[0] = {}): Promise<Mounted> {
    return this.#context.driver.mount(this.#row.driverId, {
      ...(options.hold === true ? { holdName: HOLD } : {}),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
  }

  unmount(): Promise<boolean> {
    return this.#context.driver.release(this.#row.driverId, HOLD);
  }

  isMounted(): Promise<boolean> {
    return this.#context.driver.isMounted(this.#row.driverId);
  }

  changes(options: Parameters<WritableLayer['changes']>[0] = {}): ReturnType<WritableLayer['changes']> {
    return this.#context.driver.changes(this.#row.driverId, this.#row.parent, options);
  }

  explain(): Promise<string> {
    return this.#context.driver.explain(this.#row.driverId, this.#row.parent);
  }

  diff(options: Parameters<WritableLayer['diff']>[0] = {}): ReturnType<WritableLayer['diff']> {
    const { onProgress, xattrs, signal } = options;
    return this.#context.driver.diff(this.#row.driverId, this.#row.parent, {
      ...(signal === undefined ? {} : { signal }),
      ...(xattrs === undefined ? {} : { xattrs }),
      ...(onProgress === undefined ? {} : { onBytes: (bytesDone) => onProgress({ step: 'pack', bytesDone }) }),
    });
  }

  sizeBytes(): Promise<number> {
    return this.#context.driver.diffSize(this.#row.driverId, this.#row.parent);
  }

  commit(...[reference, options]: Parameters<WritableLayer['commit']>): ReturnType<WritableLayer['commit']> {
    return commitWritable(this.#context, this.#row, reference, options);
  }

  async remove(options: { readonly force?: boolean } = {}): Promise<void> {
    const { database, driver } = this.#context;
    const { driverId, name } = this.#row;
    if (options.force === true) while (await driver.release(driverId, HOLD)) {} // every named hold
    if (await driver.isMounted(driverId)) {
      throw new StorageError('busy', `Cannot remove layer "${name}": it is mounted; unmount it first`, { layer: name });
    }
    await database.removeWritable(driverId);
    await discard(this.#context, [{ kind: 'layer', name: driverId }]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Only a handle: the layer stays, and nothing is open.
  }
}
