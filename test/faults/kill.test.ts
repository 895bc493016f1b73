import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openStore, type Store, toText } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, type ImageSpec, idOf, ociTar } from '../kit/images.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import { DRIVERS } from '../kit/stores.ts';
import { storeChild } from './child.ts';
import { mountsBelow } from './small-disk.ts';

const APP: ImageSpec = {
  layers: [bulk(1, 300, 300), bulk(2, 6, 600_000), bulk(3, 200, 3000)],
  names: ['docker.io/library/app:1'],
};
const BASE: ImageSpec = { layers: [bulk(9, 50, 500)], names: ['docker.io/library/base:1'] };

/** Whatever was killed: the next one who opens finds nothing wrong, and what was left is gone. */
async function sound(store: Store): Promise<void> {
  await store.upkeep.gc();
  assert.deepEqual(await store.upkeep.gc(), { layers: [], files: [], freedBytes: 0 });
  assert.deepEqual(await store.upkeep.check({ deep: true }), []);
}

/** On disk is what the store lists, and nothing more: all of it can be taken away. */
async function emptied(store: Store): Promise<void> {
  for (const layer of await store.layers.list()) await layer.remove({ force: true });
  for (const image of await store.images.list()) await store.images.remove(image.id, { force: true });
  await store.upkeep.gc();
  assert.deepEqual(rootDump(store.root), []);
  assert.deepEqual(mountsBelow(store.root), []);
}

for (const driver of DRIVERS) {
  test(`SIGKILL at any moment of load, commit and remove leaves a sound store, in which the same command works (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 512);
    const root = join(disk.path, 'store');
    const archive = join(disk.path, 'app.tar');
    writeFileSync(archive, ociTar(APP, BASE));
    {
      await using store = await openStore({ root, driver, threads: 2 });
      await store.images.load(archive);
      const work = await store.layers.create('base:1', { name: 'work' });
      await using mounted = await work.mount();
      for (let i = 0; i < 300; i++) writeFileSync(join(toText(mounted.path), `new-${i}`), Buffer.alloc(8000, i));
    }
    const deeds: readonly (readonly [
      args: readonly string[],
      spanMs: number,
      before: (store: Store) => Promise<unknown>,
    ])[] = [
      [['load', root, archive], 600, (store) => store.images.remove('app:1').catch(() => {})],
      [['commit', root, 'work', 'new:1'], 400, (store) => store.images.remove('new:1').catch(() => {})],
      [['remove', root, 'app:1'], 60, (store) => store.images.load(archive)],
    ];
    // A fellow who never stops working, and is never disturbed by who dies beside him.
    const fellow = storeChild('churn', root, 'base:1');
    await fellow.ready;
    const rounds = driver === 'overlay2' ? 3 : 2;
    for (let round = 0; round < rounds; round++) {
      for (const [args, spanMs, before] of deeds) {
        {
          await using store = await openStore({ root, threads: 2 });
          assert.deepEqual(await store.upkeep.check(), []);
          await before(store);
        }
        const victim = storeChild(...args);
        await victim.ready;
        await sleep((spanMs * (round + Math.random())) / rounds);
        victim.process.kill('SIGKILL');
        await victim.end;
        assert.equal(victim.err(), '');
        const again = storeChild(...args);
        const code = await again.end;
        // What was killed after it had done its work is not done twice.
        if (args[0] !== 'remove' || !/none of that name/.test(again.err()))
          assert.deepEqual([code, again.err()], [0, '']);
      }
    }
    assert.equal(fellow.err(), '');
    fellow.process.kill('SIGKILL');
    await fellow.end;
    await using store = await openStore({ root, threads: 2 });
    await sound(store);
    assert.equal((await store.images.get('base:1')).id, idOf(BASE));
    await emptied(store);
  });
}

test("SIGKILL of a process that has a layer mounted leaves a mount that is nobody's: rm, and another mount, take it", async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  await using store = await openStore({ root, driver: 'overlay2', threads: 2 });
  await store.images.load(
    (async function* () {
      yield ociTar(BASE);
    })(),
  );
  for (const then of ['rm', 'mount', 'rmi']) {
    const work = await store.layers.create('base:1', { name: 'work' });
    const holder = storeChild('hold', root, 'work');
    while (!holder.out().includes('mounted')) await sleep(20);
    await assert.rejects(work.remove(), { code: 'busy' });
    holder.process.kill('SIGKILL');
    await holder.end;
    assert.equal(mountsBelow(root).length, 1, 'the kernel keeps it');
    if (then === 'mount') {
      await using mounted = await work.mount();
      writeFileSync(join(toText(mounted.path), 'file'), 'x');
    }
    await work.remove();
    assert.deepEqual(mountsBelow(root), []);
  }
  await emptied(store);
});
