import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type TestContext, test } from 'node:test';
import { isStorageError, openStore } from '../../src/index.ts';
import { bulk } from '../kit/images.ts';
import { file, layer } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import { fillBut, unfill } from './small-disk.ts';
import {
  APP,
  named,
  RESERVE_BYTES,
  reserveBytes,
  reserveReturns,
  reserves,
  type SmallStore,
  smallStore,
} from './small-store.ts';

// A disk without blocks that only root may use (-m 0), so that nothing but the reserve is left when it is full; and with
// blocks of two sizes, as SQLite's shared map is allocated by one byte of each 4 KiB.

const BLOCKS = [4096, 1024] as const;
const REFUSED = /the disk is full but for what removing takes; remove images or layers, or make room/;

/** Layers that only gc finds. */
function forget(root: string, name: string): void {
  using db = new DatabaseSync(join(root, 'store.db'));
  const found = db.prepare('SELECT image FROM refs WHERE name = ?').get(`docker.io/library/${name}:1`);
  for (const [table, column] of [
    ['refs', 'image'],
    ['manifests', 'image'],
    ['images', 'digest'],
  ]) {
    db.prepare(`DELETE FROM ${table} WHERE ${column} = ?`).run(found?.['image'] as string);
  }
}

const ready = (t: TestContext): boolean => need(t, 'root', 'mount', 'mkfs.ext4');
const small = (blockBytes: number): Promise<SmallStore> =>
  smallStore('ext4', 64, ['-m', '0', '-b', String(blockBytes)]);

for (const blockBytes of BLOCKS) {
  for (const leaveKib of [48, 0]) {
    test(`rm, rmi and gc work with ${leaveKib} KiB free, and the reserve returns (blocks of ${blockBytes})`, async (t) => {
      if (!ready(t)) return;
      await using disk = await small(blockBytes);
      const { path, root, does, archive } = disk;
      does('load', '-i', archive(named('lost', bulk(7, 5, 9000))));
      does('load', '-i', archive(APP));
      for (const name of ['one', 'two']) does('create', 'app:1', '--name', name);
      forget(root, 'lost');
      for (const args of [['rm', 'one'], ['gc', '--wait'], ['rm', 'two'], ['rmi', 'app:1'], ['gc']]) {
        fillBut(path, leaveKib);
        does(...args);
        await reserveReturns(root);
      }
      unfill(path);
      does('gc', '--wait');
      assert.deepEqual(rootDump(root), []);
      does('check');
    });
  }

  test(`what needs the disk ends with resource-exhausted where there is no reserve, never by a signal (blocks of ${blockBytes})`, async (t) => {
    if (!ready(t)) return;
    await using disk = await small(blockBytes);
    const { path, root, run, does, archive } = disk;
    const app = archive(APP);
    does('load', '-i', app);
    does('create', 'app:1', '--name', 'work');
    let refusals = 0;
    for (const leaveKib of [0, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 120]) {
      for (const args of [['images'], ['create', 'app:1', '--name', 'more'], ['load', '-i', app], ['rm', 'work']]) {
        for (const reserve of reserves(root)) rmSync(reserve, { force: true });
        fillBut(path, leaveKib);
        const { status, stderr } = run(...args);
        const what = `${args.join(' ')} with ${leaveKib} KiB: ${stderr}`;
        assert.ok(status === 0 || status === 8, what);
        if (args[0] === 'create' || args[0] === 'load') assert.equal(status, 8, what);
        if (args[0] !== 'rm') continue;
        if (status === 8) refusals++;
        unfill(path);
        if (status === 0) does('create', 'app:1', '--name', 'work');
      }
    }
    assert.ok(refusals >= 6, `it is the reserve that lets rm work: ${refusals} were refused without`);
    does('check');
  });

  test(`what the reserve gives is for removing: nothing grows on a full disk (blocks of ${blockBytes})`, async (t) => {
    if (!ready(t)) return;
    await using disk = await small(blockBytes);
    const { path, root, run, does, archive } = disk;
    const other = archive(named('other', layer(file('f', 'f'))));
    does('load', '-i', archive(APP));
    for (const name of ['one', 'two', 'three']) does('create', 'app:1', '--name', name);
    const growing = [
      ['commit', 'one', 'new:1'],
      ['create', 'app:1', '--name', 'four'],
      ['tag', 'app:1', 'name:1'],
      ['load', '-i', other],
    ];
    fillBut(path, 0);
    for (let round = 0; round < 3; round++) {
      for (const args of growing) {
        does('images');
        does('ls');
        const { status, stderr } = run(...args);
        assert.equal(status, 8, `${args.join(' ')}: ${stderr}`);
        assert.match(stderr, REFUSED);
        assert.ok(reserveBytes(root) >= RESERVE_BYTES, 'the reserve is whole after it');
      }
    }
    does('rm', 'one');
    await reserveReturns(root);
    unfill(path);
    // Where it is gone, it comes again with room, and only then does anything grow.
    for (const reserve of reserves(root)) rmSync(reserve);
    fillBut(path, 300);
    assert.match(run('commit', 'two', 'new:1').stderr, REFUSED);
    unfill(path);
    does('commit', 'two', 'new:1');
    assert.ok(reserveBytes(root) >= RESERVE_BYTES);
    does('check');
  });

  test(`a store that is held open removes on a full disk, and others do (blocks of ${blockBytes})`, async (t) => {
    if (!ready(t)) return;
    await using disk = await small(blockBytes);
    const { path, root, does, archive } = disk;
    does('load', '-i', archive(APP));
    for (const name of ['one', 'two', 'three', 'four']) does('create', 'app:1', '--name', name);
    for (const brief of [false, true]) {
      await using store = await openStore({ root, brief, threads: 2 });
      fillBut(path, 0);
      assert.equal((await store.layers.list()).length, brief ? 2 : 4);
      await assert.rejects(
        store.layers.create('app:1', { name: 'five' }),
        (error) => isStorageError(error, 'resource-exhausted') && !error.message.includes('\n'),
      );
      await store.layers.remove(brief ? 'three' : 'one');
      fillBut(path, 0);
      does('rm', brief ? 'four' : 'two');
      if (brief) await store.images.remove('app:1');
      assert.deepEqual((await store.upkeep.gc({ wait: true })).layers, []);
      unfill(path);
      await store.images.load(archive(named('later', layer(file('f', 'f')))));
      assert.ok(reserveBytes(root) >= RESERVE_BYTES, 'it takes the reserve before it grows');
      await store.images.remove('later:1');
    }
    does('gc', '--wait');
    assert.deepEqual(rootDump(root), []);
  });

  test(`a store that was opened while there was room meets a full disk at its first write (blocks of ${blockBytes})`, async (t) => {
    if (!ready(t)) return;
    await using disk = await small(blockBytes);
    const { path, root, does, archive } = disk;
    does('load', '-i', archive(APP));
    const sizes = [0, 8, 16, 24, 32, 40, 48]; // a signal would end this file
    for (const leaveKib of sizes) does('create', 'app:1', '--name', `of-${leaveKib}`);
    for (const leaveKib of sizes) {
      for (const first of ['create', 'remove']) {
        unfill(path);
        await using store = await openStore({ root, brief: true, threads: 2 });
        await store.layers.list();
        fillBut(path, leaveKib);
        if (first === 'remove') await store.layers.remove(`of-${leaveKib}`);
        else await assert.rejects(store.layers.create('app:1'), (error) => isStorageError(error, 'resource-exhausted'));
      }
    }
    does('gc', '--wait');
    does('check');
  });

  test(`more layers than one transaction has room for are removed from a full disk (blocks of ${blockBytes})`, async (t) => {
    if (!ready(t)) return;
    await using disk = await small(blockBytes);
    const { path, root, does, archive } = disk;
    const images = ['a', 'b', 'c', 'd'];
    for (const name of images) {
      const layers = Array.from({ length: 120 }, (_, i) => layer(file(`f${i}`, `${name}${i}`)));
      does('load', '-i', archive(named(name, ...layers)));
    }
    for (const name of ['a', 'b']) forget(root, name);
    fillBut(path, 0);
    does('rmi', 'c:1', 'd:1');
    fillBut(path, 0);
    does('gc', '--wait');
    assert.deepEqual(rootDump(root), []);
    does('check');
  });
}
