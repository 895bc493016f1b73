import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fromText } from '../../src/base/bytes.ts';
import { openStore } from '../../src/index.ts';
import { openDatabase } from '../../src/store/database.ts';
import { shell } from '../doors/run-cli.ts';
import { deletersEnd } from '../kit/deleters.ts';
import { type FilesystemName, needsOf } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import { fillBut, unfill } from './small-disk.ts';
import { APP, RESERVE_BYTES, reserveBytes, reserveReturns, smallStore } from './small-store.ts';

// Several processes at a full disk. xfs needs room for each new file, also for locks; blocks of 1 KiB leave the rest of a
// page without.

const DISKS: readonly (readonly [what: string, FilesystemName, sizeMiB: number, ...features: readonly string[]])[] = [
  ['ext4', 'ext4', 64, '-m', '0', '-b', '4096'],
  ['ext4, blocks of 1 KiB', 'ext4', 64, '-m', '0', '-b', '1024'],
  ['xfs', 'xfs', 310],
  ['tmpfs', 'tmpfs', 24],
];

for (const [what, kind, sizeMiB, ...features] of DISKS) {
  test(`several commands at once have the reserve, each in its turn (${what})`, async (t) => {
    if (!need(t, ...needsOf(kind))) return;
    await using disk = await smallStore(kind, sizeMiB, features);
    const { path, root, does } = disk;
    for (let round = 0; round < 5; round++) {
      unfill(path);
      const names = ['one', 'two', 'three', 'four'];
      for (const name of names) does('create', '--name', name);
      await deletersEnd(root);
      fillBut(path, 0);
      const commands = [...names.map((name) => `rm ${name}`), 'images', 'ls', 'gc'];
      const all = commands.map((command) => `("$L" ${command} >/dev/null; echo "${command}: $?") & `);
      const { stdout, stderr } = shell(root, `${all.join('')} wait`);
      const ended = commands.map((command) => `${command}: 0`);
      assert.deepEqual(stdout.trim().split('\n').sort(), ended.sort(), stderr);
      await reserveReturns(root);
    }
    unfill(path);
    does('gc', '--wait');
    assert.deepEqual(rootDump(root), []);
    does('check');
  });

  test(`what removals were given nobody takes while one of them is under way (${what})`, async (t) => {
    if (!need(t, ...needsOf(kind))) return;
    await using disk = await smallStore(kind, sizeMiB, features);
    const { path, root, does } = disk;
    does('create', '--name', 'work');
    await deletersEnd(root);
    const choose = (): never => assert.fail('there is a store');
    {
      await using one = await openDatabase(fromText(root), { create: false, choose });
      await using other = await openDatabase(fromText(root), { create: false, choose, inline: true });
      fillBut(path, 0);
      assert.ok(reserveBytes(root) >= RESERVE_BYTES);
      for (const database of [one, other]) await database.room('to remove');
      does('ls');
      does('images');
      assert.equal(reserveBytes(root), 0);
      await one.room('removed');
      does('ls');
      assert.equal(reserveBytes(root), 0, 'the other still uses it');
      await other.room('removed');
      assert.ok(reserveBytes(root) > 0, 'but for what the open database takes');
    }
    assert.ok(reserveBytes(root) >= RESERVE_BYTES);
  });

  test(`two handles of one process remove at once (${what})`, async (t) => {
    if (!need(t, ...needsOf(kind))) return;
    await using disk = await smallStore(kind, sizeMiB, features);
    const { path, root, does, archive } = disk;
    does('load', '-i', archive(APP));
    for (const brief of [true, false]) {
      const names = ['one', 'two', 'three', 'four'];
      for (const name of names) does('create', 'app:1', '--name', name);
      await deletersEnd(root);
      {
        await using one = await openStore({ root, brief, threads: 2 });
        await using other = await openStore({ root, brief, threads: 2 });
        fillBut(path, 0);
        await Promise.all(names.map((name, i) => (i % 2 === 0 ? one : other).layers.remove(name)));
      }
      await reserveReturns(root);
      unfill(path);
    }
    does('gc', '--wait');
    does('check');
  });
}
