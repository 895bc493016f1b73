import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { after, type TestContext, test } from 'node:test';
import type { Store } from '../../src/index.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import { DRIVERS, openStores, type Stores } from '../kit/stores.ts';

let stores: Promise<Stores> | undefined;
after(async () => (await stores)?.[Symbol.asyncDispose]());

/**
 * One test for each driver, with a store that is empty at its beginning. At its end the store has no fault, everything
 * can be removed, and then nothing is left on disk. `path` is a directory of the test's own.
 */
export function eachStore(title: string, task: (store: Store, path: string, t: TestContext) => Promise<void>): void {
  for (const [i, driver] of DRIVERS.entries()) {
    test(`${title} (${driver})`, async (t) => {
      if (!need(t, 'root', 'mount')) return;
      stores ??= openStores();
      const { each, path } = await stores;
      const store = each[i] as Store;
      try {
        await task(store, mkdtempSync(`${path}/test-`), t);
        assert.deepEqual(await store.upkeep.check({ deep: true }), []);
      } finally {
        for (const layer of await store.layers.list()) await layer.remove({ force: true });
        for (const image of await store.images.list()) await store.images.remove(image.id, { force: true });
        await store.upkeep.sweep({ wait: true });
      }
      assert.deepEqual(rootDump(store.root, { aside: true }), []);
      assert.deepEqual(await store.upkeep.gc(), { layers: [], files: [], freedBytes: 0 });
    });
  }
}
