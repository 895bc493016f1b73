import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type LoadedImage, openStore } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, type ImageSpec, idOf, ociTar } from '../kit/images.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import { DRIVERS } from '../kit/stores.ts';
import { type StoreChild, storeChild } from './child.ts';
import { mountsBelow } from './small-disk.ts';

const base = bulk(1, 120, 1000);
const SPECS: readonly ImageSpec[] = [
  { layers: [base, bulk(2, 4, 300_000)], names: ['docker.io/library/one:1'] },
  { layers: [base, bulk(3, 100, 100), bulk(4, 3, 10)], names: ['docker.io/library/two:1'] },
  { layers: [base], names: ['docker.io/library/base:1', 'docker.io/library/also:1'] },
];

for (const driver of DRIVERS) {
  test(`two and four processes that load one image at once all succeed, and one set of layers remains (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 512);
    const archive = join(disk.path, 'app.tar');
    writeFileSync(archive, ociTar(SPECS[0] as ImageSpec));
    for (const [round, processes] of [2, 4].entries()) {
      const root = join(disk.path, `store-${round}`);
      // The first one makes the store; all the others find it, or make it with him.
      if (round === 0) await (await openStore({ root, driver, threads: 2 }))[Symbol.asyncDispose]();
      const all = Array.from({ length: processes }, () => storeChild('load', root, archive));
      for (const one of all) assert.deepEqual([await one.end, one.err()], [0, '']);
      await using store = await openStore({ root, threads: 2 });
      assert.deepEqual(
        (await store.images.list()).map(({ id }) => id),
        [idOf(SPECS[0] as ImageSpec)],
      );
      assert.deepEqual(await store.upkeep.counts(), { images: 1, layers: 2, writable: 0 });
      assert.deepEqual(await store.upkeep.check({ deep: true }), []);
      assert.deepEqual(await store.upkeep.gc(), { layers: [], files: [], freedBytes: 0 });
      await store.images.remove('one:1');
      assert.deepEqual(rootDump(root), []);
    }
  });

  test(`four loads of one image at once in one process all succeed, and one set of layers remains (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 512);
    const archive = join(disk.path, 'app.tar');
    writeFileSync(archive, ociTar(...SPECS));
    await using store = await openStore({ root: join(disk.path, 'store'), driver, threads: 2 });
    const unpackers = new Set<number>();
    const load = (who: number): Promise<unknown> =>
      store.images.load(archive, { onProgress: ({ step }) => void (step === 'unpack' && unpackers.add(who)) });
    const loaded = (await Promise.all([0, 1, 2, 3].map(load))) as LoadedImage[][];
    assert.equal(unpackers.size, 1, 'who comes second waits for the first, and unpacks nothing');
    for (const images of loaded) assert.deepEqual(images.map(({ id }) => id).sort(), SPECS.map(idOf).sort());
    assert.deepEqual(await store.upkeep.counts(), { images: 3, layers: 4, writable: 0 });
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    assert.deepEqual(await store.upkeep.gc(), { layers: [], files: [], freedBytes: 0 });
  });

  test(`a load that waits for another's layers takes them over when that one is given up, and can be given up itself (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 512);
    const archive = join(disk.path, 'app.tar');
    writeFileSync(archive, ociTar(SPECS[0] as ImageSpec));
    await using store = await openStore({ root: join(disk.path, 'store'), driver });
    const [first, third] = [new AbortController(), new AbortController()];
    const { promise: began, resolve } = Promise.withResolvers<void>();
    const leading = store.images.load(archive, {
      signal: first.signal,
      onProgress: ({ step }) => {
        if (step !== 'unpack') return;
        resolve();
        first.abort(new Error('given up'));
      },
    });
    const given = assert.rejects(leading, /given up/);
    await began;
    const following = store.images.load(archive);
    const impatient = assert.rejects(store.images.load(archive, { signal: third.signal }), /no patience/);
    third.abort(new Error('no patience'));
    await Promise.all([given, impatient]);
    assert.equal((await following)[0]?.id, idOf(SPECS[0] as ImageSpec));
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    assert.deepEqual(await store.upkeep.gc({ wait: true }), { layers: [], files: [], freedBytes: 0 });
  });
}

test('eight processes that do anything in one store, and are killed, leave it sound (invariant 9)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 1024);
  const root = join(disk.path, 'store');
  const archives = SPECS.map((spec, i) => {
    const path = join(disk.path, `${i}.tar`);
    writeFileSync(path, ociTar(spec));
    return path;
  });
  const until = Date.now() + 10_000;
  const start = (i: number): StoreChild => storeChild('riot', root, `${until - Date.now()}`, `p${i}`, ...archives);
  const all = Array.from({ length: 8 }, (_, i) => start(i));
  const survived: StoreChild[] = [];
  const killed = new Set<StoreChild>();
  while (Date.now() < until - 2500) {
    await sleep(350 + Math.random() * 500);
    const i = Math.floor(Math.random() * all.length);
    const victim = all[i] as StoreChild;
    victim.process.kill('SIGKILL');
    killed.add(victim);
    survived.push(victim);
    all[i] = start(i);
  }
  for (const one of [...all, ...survived]) {
    const end = await one.end;
    assert.equal(one.err(), '');
    if (!killed.has(one)) assert.equal(end, 0);
  }
  const deeds = all.reduce((sum, one) => sum + Number(one.out().split('\n')[1] ?? 0), 0);
  assert.ok(deeds > 50, `only ${deeds} deeds were done`);
  await using store = await openStore({ root, threads: 2 });
  assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  await store.upkeep.gc();
  assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  for (const layer of await store.layers.list()) await layer.remove({ force: true });
  for (const image of await store.images.list()) await store.images.remove(image.id, { force: true });
  await store.upkeep.gc();
  assert.deepEqual(rootDump(root), []);
  assert.deepEqual(mountsBelow(root), []);
});
