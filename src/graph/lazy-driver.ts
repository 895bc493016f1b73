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
 * kernel. A failure to open is that call's failure, and the next call tries again.
 */
export function lazyDriver(identity: DriverIdentity, open: () => Promise<LayerDriver>): LayerDriver {
  let opened: Promise<LayerDriver> | undefined;
  const driver = (): Promise<LayerDriver> => {
    opened ??= open().catch((error: unknown) => {
      opened = undefined;
      throw error;
    });
    return opened;
  };
  return {
    ...identity,
    capabilities: async () => (await driver()).capabilities(),
    create: async (...given) => (await driver()).create(...given),
    remove: async (...given) => (await driver()).remove(...given),
    has: async (...given) => (await driver()).has(...given),
    list: async () => (await driver()).list(),
    parent: async (...given) => (await driver()).parent(...given),
    metadata: async (...given) => (await driver()).metadata(...given),
    status: async () => (await driver()).status(),
    content: async (...given) => (await driver()).content(...given),
    seal: async (...given) => (await driver()).seal(...given),
    mounts: async (...given) => (await driver()).mounts(...given),
    mount: async (...given) => (await driver()).mount(...given),
    release: async (...given) => (await driver()).release(...given),
    isMounted: async (...given) => (await driver()).isMounted(...given),
    cleanup: async () => (await driver()).cleanup(),
    async [Symbol.asyncDispose]() {
      await (await opened?.catch(() => undefined))?.[Symbol.asyncDispose]();
    },
  };
}
