import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isStorageError, openStore, type Store } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { file, layer, ociImage } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

async function drained(stream: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of stream) {
    // only read
  }
}

for (const driver of DRIVERS) {
  test(`a store whose driver's directory is gone says so, with the remedy, and can be mended by it (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 64);
    const root = join(disk.path, 'store');
    const image = ociImage([layer(file('a', 'a')), layer(file('b', 'b'))]);
    {
      await using store = await openStore({ root, driver, threads: 2 });
      await store.images.load(once(image));
      await store.layers.create('test:1', { name: 'work' });
    }
    rmSync(join(root, driver), { recursive: true });
    const told: string[] = [];
    const log = { debug: () => {}, info: () => {}, warn: (line: string) => told.push(line) };
    await using store = await openStore({ root, threads: 2, log });
    const gone = (error: unknown): boolean => {
      assert.ok(isStorageError(error, 'corrupt'), String(error));
      assert.match(
        `${error.message}; ${error.remedy}`,
        /its directory .*is gone.*remove the images and layers that use it and load them again/,
      );
      return true;
    };
    const deeds: Readonly<Record<string, (store: Store) => Promise<unknown>>> = {
      create: ({ layers }) => layers.create('test:1'),
      mount: async ({ layers }) => (await layers.get('work')).mount(),
      view: ({ layers }) => layers.view('test:1'),
      save: ({ images }) => drained(images.save(['test:1'])),
      export: ({ images }) => drained(images.export('test:1')),
      changes: async ({ layers }) => drained((await layers.get('work')).changes()),
      commit: async ({ layers }) => (await layers.get('work')).commit('new:1'),
    };
    for (const [name, deed] of Object.entries(deeds)) await assert.rejects(deed(store), gone, name);
    assert.match(told.join('\n'), /The directory of the writable layer "work" is missing and cannot be made anew/);
    const faults = await store.upkeep.check();
    assert.equal(faults.length, 3);
    for (const { what } of faults) assert.equal(what, 'the directory of a layer is missing');
    // What no store has is still that.
    await assert.rejects(store.layers.get('nobody'), { code: 'not-found' });
    await store.layers.remove('work');
    await store.images.remove('test:1');
    await store.images.load(once(image));
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  });
}
