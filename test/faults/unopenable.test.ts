import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openStore } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { fails } from '../transport/archives.ts';

// SQLite says only that it cannot open a file. The reason is the kernel's, and so is what to do about it.

function remount(path: string, options: string): void {
  const { status, stderr } = spawnSync('mount', ['-o', `remount,${options}`, path], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
}

/** Makes files until the filesystem has no inode left. */
function useUpInodes(path: string): () => void {
  const made: string[] = [];
  while (statfsSync(path).ffree > 0) {
    const name = join(path, `filler-${made.length}`);
    writeFileSync(name, '');
    made.push(name);
  }
  return () => {
    for (const name of made) rmSync(name);
  };
}

test('openStore() says that the filesystem is read-only, not that rights are missing', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  {
    await using _ = await openStore({ root, driver: 'vfs', threads: 2 });
  }
  remount(disk.path, 'ro');
  await assert.rejects(openStore({ root }), fails('failed-precondition', /the filesystem is read-only/));
  await assert.rejects(
    openStore({ root: join(disk.path, 'new'), driver: 'vfs' }),
    fails('failed-precondition', /the filesystem is read-only/),
  );
  remount(disk.path, 'rw');
  await using store = await openStore({ root, threads: 2 });
  assert.deepEqual(await store.upkeep.check(), []);
});

test('openStore() says that no inodes are left, not that rights are missing', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  {
    await using _ = await openStore({ root, driver: 'vfs', threads: 2 });
  }
  remount(disk.path, 'nr_inodes=400');
  const free = useUpInodes(disk.path);
  await assert.rejects(openStore({ root }), fails('resource-exhausted', /no inodes are left on the filesystem/));
  await assert.rejects(
    openStore({ root: join(disk.path, 'new'), driver: 'vfs' }),
    fails('resource-exhausted', /no inodes are left on the filesystem/),
  );
  free();
  await using store = await openStore({ root, threads: 2 });
  assert.deepEqual(await store.upkeep.check(), []);
});

test('layers.create() says that rights are missing where a database may not be written', async (t) => {
  if (!need(t, 'root', 'mount', 'chattr', 'mkfs.ext4')) return;
  await using disk = await filesystem('ext4', 64);
  const root = join(disk.path, 'store');
  {
    await using _ = await openStore({ root, driver: 'vfs', threads: 2 });
  }
  const chattr = (flag: string): void => {
    const { status, stderr } = spawnSync('chattr', [flag, join(root, 'store.db')], { encoding: 'utf8' });
    assert.equal(status, 0, stderr);
  };
  chattr('+i');
  try {
    await using store = await openStore({ root, threads: 2 }); // reading works
    await assert.rejects(store.layers.create(), fails('permission-denied', /not permitted; run as the owner/));
  } finally {
    chattr('-i');
  }
  await using store = await openStore({ root, threads: 2 });
  assert.deepEqual(await store.upkeep.check(), []);
});
