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
  await store.upkeep.gc({ wait: true });
  assert.deepEqual(rootDump(store.root, { aside: true }), []);
  assert.deepEqual(mountsBelow(store.root), []);
}

for (const driver of DRIVERS) {
  test(`SIGKILL at any moment of load, commit and remove leaves a sound store, in which the same command works (invariants 3 and 9, ${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 512);
    const root = join(disk.path, 'store');
    const archive = join(disk.path, 'app.tar');
    writeFileSync(archive, ociTar(APP, BASE));
    {
      // Beside those who die works one who never stops, and the one who looks on: neither is ever disturbed.
      await using store = await openStore({ root, driver, threads: 2 });
      await store.images.load(archive);
      const work = await store.layers.create('base:1', { name: 'work' });
      {
        await using mounted = await work.mount();
        for (let i = 0; i < 300; i++) writeFileSync(join(toText(mounted.path), `new-${i}`), Buffer.alloc(8000, i));
      }
      const fellow = storeChild('churn', root, 'base:1');
      await fellow.ready;
      const removed = async (name: string): Promise<void> => {
        const present = (await store.images.list()).some(({ names }) => names.includes(`docker.io/library/${name}`));
        if (present) await store.images.remove(name);
      };
      const load = (): Promise<unknown> => store.images.load(archive);
      const commit = (): Promise<unknown> => work.commit('new:1', { createdAt: '2024-01-01T00:00:00Z' });
      const deeds: readonly Deed[] = [
        { args: ['load', root, archive], spanMs: 500, before: () => removed('app:1'), again: load },
        { args: ['commit', root, 'work', 'new:1'], spanMs: 400, before: () => removed('new:1'), again: commit },
        { args: ['remove', root, 'app:1'], spanMs: 60, before: load, again: () => removed('app:1') },
      ];
      const rounds = driver === 'overlay2' ? 5 : 3;
      for (let round = 0; round < rounds; round++) {
        for (const { args, spanMs, before, again } of deeds) {
          await before();
          const victim = storeChild(...args);
          await victim.ready;
          await sleep((spanMs * (round + Math.random())) / rounds);
          victim.process.kill('SIGKILL');
          await victim.end;
          assert.equal(victim.err(), '');
          assert.deepEqual(await store.upkeep.check({ deep: true }), [], args[0]);
          await again();
        }
      }
      assert.equal(fellow.err(), '');
      fellow.process.kill('SIGKILL');
      await fellow.end;
    }
    await using store = await openStore({ root, threads: 2 });
    await sound(store);
    assert.equal((await store.images.get('base:1')).id, idOf(BASE));
    await emptied(store);
  });
}

interface Deed {
  readonly args: readonly string[];
  /** About as long as it takes. */
  readonly spanMs: number;
  readonly before: () => Promise<unknown>;
  /** The same, in this process. */
  readonly again: () => Promise<unknown>;
}

test("SIGKILL of a process that has a layer mounted leaves a mount that is nobody's: rm, rmi and another mount take it", async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  await using store = await openStore({ root, driver: 'overlay2', threads: 2 });
  await store.images.load(
    (async function* () {
      yield ociTar(BASE);
    })(),
  );
  const dead = async (...args: readonly string[]): Promise<void> => {
    const holder = storeChild(...args);
    while (!holder.out().includes('mounted')) await sleep(20);
    if (args[0] === 'view') await assert.rejects(store.images.remove('base:1'), { code: 'busy' });
    else await assert.rejects(store.layers.remove('work'), { code: 'busy' });
    holder.process.kill('SIGKILL');
    await holder.end;
    assert.equal(mountsBelow(root).length, 1, 'the kernel keeps it');
  };
  for (const then of ['rm', 'mount']) {
    const work = await store.layers.create('base:1', { name: 'work' });
    await dead('hold', root, 'work');
    if (then === 'mount') {
      await using mounted = await work.mount();
      writeFileSync(join(toText(mounted.path), 'file'), 'x');
    }
    await work.remove();
    assert.deepEqual(mountsBelow(root), []);
  }
  await dead('view', root, 'base:1');
  await store.images.remove('base:1');
  assert.deepEqual(mountsBelow(root), []);
  await emptied(store);
});
