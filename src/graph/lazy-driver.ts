import type { ByteString } from '../base/bytes.ts';
import type { IdMaps } from '../base/id-map.ts';
import type { DriverName } from '../base/values.ts';
import type { LayerDriver } from '../driver/driver.ts';

/** What is known of a driver before it is opened. */
export interface DriverIdentity {
  readonly name: DriverName;
  readonly home: ByteString;
  readonly idMaps: IdMaps;
}

/**
 * A driver that `open` opens at the first call that needs it: listing a store's images must not cost a probe of the
 * kernel. A failure to open is that call's failure, and the next call tries again. `explain` may make another error of
 * a call's failure.
 */
export function lazyDriver(
  identity: DriverIdentity,
  open: () => Promise<LayerDriver>,
  explain: (error: unknown) => Promise<unknown> = async (error) => error,
): LayerDriver {
  let opened: Promise<LayerDriver> | undefined;
  const driver = (): Promise<LayerDriver> => {
    opened ??= open().catch((error: unknown) => {
      opened = undefined;
      throw error;
    });
    return opened;
  };
  const call = async <T>(use: (driver: LayerDriver) => Promise<T>): Promise<T> => {
    try {
      return await use(await driver());
    } catch (error) {
      throw await explain(error);
    }
  };
  return {
    ...identity,
    capabilities: () => call((driver) => driver.capabilities()),
    create: (...given) => call((driver) => driver.create(...given)),
    remove: (...given) => call((driver) => driver.remove(...given)),
    sweep: (...given) => call((driver) => driver.sweep(...given)),
    has: (...given) => call((driver) => driver.has(...given)),
    list: () => call((driver) => driver.list()),
    parent: (...given) => call((driver) => driver.parent(...given)),
    metadata: (...given) => call((driver) => driver.metadata(...given)),
    status: () => call((driver) => driver.status()),
    content: (...given) => call((driver) => driver.content(...given)),
    reading: (...given) => call((driver) => driver.reading(...given)),
    seal: (...given) => call((driver) => driver.seal(...given)),
    mounts: (...given) => call((driver) => driver.mounts(...given)),
    mount: (...given) => call((driver) => driver.mount(...given)),
    release: (...given) => call((driver) => driver.release(...given)),
    isMounted: (...given) => call((driver) => driver.isMounted(...given)),
    cleanup: () => call((driver) => driver.cleanup()),
    async [Symbol.asyncDispose]() {
      await (await opened?.catch(() => undefined))?.[Symbol.asyncDispose]();
    },
  };
}
