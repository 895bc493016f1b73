import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type TestContext, test } from 'node:test';
import { isStorageError, openStore, type Store, toText } from '../../src/index.ts';
import { Database } from '../../src/store/database.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, type ImageSpec, idOf, ociTar } from '../kit/images.ts';
import { need } from '../kit/require.ts';
import { withStore } from '../kit/stores.ts';
import { resize, usedKib } from './small-disk.ts';
import { leavesNothing } from './unharmed.ts';

// What happens between two steps of a call, where no lock is held: the database's own method is where the test comes in.

const APP: ImageSpec = { layers: [bulk(1, 20, 1000), bulk(2, 5, 100)], names: ['docker.io/library/app:1'] };

/** Pins in the database: what keeps layers from removal. */
function pins(store: Store): number {
  using db = new DatabaseSync(join(store.root, 'store.db'), { readOnly: true });
  return Number(db.prepare(`SELECT count(*) AS n FROM names WHERE space = 'pin'`).get()?.n);
}

test('a load that fails between two of its plans keeps nothing pinned', async (t) => {
  await withStore(t, 'overlay2', async (store, path) => {
    const archive = join(path, 'app.tar');
    const lower = join(path, 'lower.tar');
    writeFileSync(archive, ociTar(APP));
    writeFileSync(lower, ociTar({ ...APP, layers: APP.layers.slice(0, 1), names: ['docker.io/library/lower:1'] }));
    await store.images.load(lower);
    let pinned = 0;
    const reason = new Error('enough');
    const unpin = t.mock.method(Database.prototype, 'unpin', async () => {
      pinned = pins(store);
      unpin.mock.restore();
      throw reason;
    });
    await leavesNothing(
      store,
      () => store.images.load(archive),
      (error) => error === reason,
    );
    assert.equal(pinned, 2, 'the layer is pinned by the plan before and by the new one');
    assert.equal(pins(store), 0);
    await store.images.remove('lower:1');
    assert.deepEqual(await store.layers.stored(), []);
  });
});

test('create() on an image that is removed and loaded again meanwhile stands on what is there now', async (t) => {
  await withStore(t, 'overlay2', async (store, path) => {
    const archive = join(path, 'app.tar');
    writeFileSync(archive, ociTar(APP));
    await store.images.load(archive);
    const replaced = replacing(t, store, archive);
    const work = await store.layers.create('app:1', { name: 'work' });
    assert.equal(replaced.times, 2);
    assert.deepEqual(
      (await store.layers.list()).map(({ id, name }) => [id, name]),
      [[work.id, 'work']],
    );
    {
      await using mounted = await work.mount();
      writeFileSync(join(toText(mounted.path), 'new'), 'new');
    }
    assert.deepEqual(await Array.fromAsync(work.changes(), ({ path }) => toText(path)), ['/new']);
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    assert.deepEqual(await store.upkeep.gc({ dryRun: true }), { layers: [], files: [], freedBytes: 0 });
  });
});

test('create() that is given up while its image is replaced leaves neither a directory nor a row', async (t) => {
  await withStore(t, 'overlay2', async (store, path) => {
    const archive = join(path, 'app.tar');
    writeFileSync(archive, ociTar(APP));
    await store.images.load(archive);
    const stop = new AbortController();
    const reason = new Error('enough');
    const replaced = replacing(t, store, archive, () => stop.abort(reason));
    await assert.rejects(store.layers.create('app:1', { signal: stop.signal }), (error) => error === reason);
    assert.equal(replaced.times, 1);
    assert.deepEqual(await store.layers.list(), []);
    assert.deepEqual(await store.upkeep.counts(), { images: 1, layers: 2, writable: 0 });
    await store.upkeep.sweep({ wait: true });
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    assert.deepEqual(await store.upkeep.gc({ dryRun: true }), { layers: [], files: [], freedBytes: 0 });
    assert.equal((await store.images.list())[0]?.id, idOf(APP));
  });
});

/** Before the first row of a writable layer is written, the image is removed and loaded again; `then` follows the row. */
function replacing(t: TestContext, store: Store, archive: string, then?: () => void): { times: number } {
  const seen = { times: 0 };
  const original = Database.prototype.createWritable;
  t.mock.method(Database.prototype, 'createWritable', async function (this: Database, ...args: [never]) {
    if (seen.times++ > 0) return original.apply(this, args);
    await store.images.remove('app:1');
    await store.images.load(archive);
    const row = await original.apply(this, args);
    then?.();
    return row;
  });
  return seen;
}

test('a disk that is full while a store is made is told as that, and not taken for what overlay cannot do', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  let failed = 0;
  let opened = 0;
  for (let kib = 0; opened < 2; kib += 12 + (kib % 8)) {
    const root = join(disk.path, `store-${kib}`);
    mkdirSync(root);
    resize(disk.path, usedKib(disk.path) + kib + 4);
    try {
      await using store = await openStore({ root, threads: 1 });
      assert.equal(store.driver.name, 'overlay2', store.driver.because);
      await store.layers.create();
      opened++;
    } catch (error) {
      if (!isStorageError(error, 'resource-exhausted')) throw error;
      failed++;
    } finally {
      resize(disk.path, 64 * 1024);
    }
    await using store = await openStore({ root, threads: 1 });
    assert.equal(store.driver.name, 'overlay2', `after ${kib} KiB: ${store.driver.because}`);
  }
  assert.ok(failed >= 5, `${failed} failed`);
});
