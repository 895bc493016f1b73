import type { ByteString } from '../base/bytes.ts';
import type { LayerId } from '../base/values.ts';
import type {
  ContentOptions,
  CreateOptions,
  LayerContent,
  LayerDriver,
  LayerPaths,
  LayerReading,
  Mounted,
  MountOptions,
  RemoveOptions,
  SweepOptions,
  SyncOptions,
} from '../driver/driver.ts';
import type { Mount } from '../mount/mount.ts';

/** Does all that a driver does by that driver: for classes that do more. */
export class DelegatingDriver implements LayerDriver {
  readonly #driver: LayerDriver;

  constructor(driver: LayerDriver) {
    this.#driver = driver;
  }

  get name(): LayerDriver['name'] {
    return this.#driver.name;
  }
  get home(): ByteString {
    return this.#driver.home;
  }
  get idMaps(): LayerDriver['idMaps'] {
    return this.#driver.idMaps;
  }
  capabilities(): ReturnType<LayerDriver['capabilities']> {
    return this.#driver.capabilities();
  }
  create(id: LayerId, options: CreateOptions): Promise<void> {
    return this.#driver.create(id, options);
  }
  remove(id: LayerId, options?: RemoveOptions): Promise<void> {
    return this.#driver.remove(id, options);
  }
  sweep(options?: SweepOptions): Promise<void> {
    return this.#driver.sweep(options);
  }
  has(id: LayerId): Promise<boolean> {
    return this.#driver.has(id);
  }
  list(): Promise<LayerId[]> {
    return this.#driver.list();
  }
  parent(id: LayerId): Promise<LayerId | undefined> {
    return this.#driver.parent(id);
  }
  metadata(id: LayerId): Promise<LayerPaths> {
    return this.#driver.metadata(id);
  }
  status(): ReturnType<LayerDriver['status']> {
    return this.#driver.status();
  }
  content(id: LayerId, options?: ContentOptions): Promise<LayerContent> {
    return this.#driver.content(id, options);
  }
  reading(id: LayerId, options?: Parameters<LayerDriver['reading']>[1]): Promise<LayerReading> {
    return this.#driver.reading(id, options);
  }
  seal(ids: readonly LayerId[], options?: SyncOptions): Promise<void> {
    return this.#driver.seal(ids, options);
  }
  mounts(id: LayerId, options?: Parameters<LayerDriver['mounts']>[1]): Promise<readonly Mount[]> {
    return this.#driver.mounts(id, options);
  }
  mount(id: LayerId, options?: MountOptions): Promise<Mounted> {
    return this.#driver.mount(id, options);
  }
  release(id: LayerId, holdName: string, options?: { readonly detach?: boolean }): Promise<boolean> {
    return this.#driver.release(id, holdName, options);
  }
  isMounted(id: LayerId): Promise<boolean> {
    return this.#driver.isMounted(id);
  }
  cleanup(): Promise<void> {
    return this.#driver.cleanup();
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#driver[Symbol.asyncDispose]();
  }
}
