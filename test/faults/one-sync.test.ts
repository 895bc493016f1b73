import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openStore } from '../../src/index.ts';
import { LAUNCHER } from '../doors/run-cli.ts';
import { filesystem } from '../kit/filesystems.ts';
import { noise } from '../kit/images.ts';
import { file, layer, ociImage } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';

// What a commit has on the disk before its rows: one sync is of a whole filesystem, and what fails is told by one alone.

for (const elsewhere of [false, true]) {
  const title = elsewhere ? 'a commit syncs records of their own filesystem' : 'a commit syncs one filesystem once';
  test(`${title} before it writes its rows`, async (t) => {
    if (!need(t, 'root', 'mount', 'strace')) return;
    await using disk = await filesystem('tmpfs', 64);
    const root = join(disk.path, 'store');
    {
      await using store = await openStore({ root });
      await store.images.load([ociImage([layer(file('base', noise(100, 1)))], 'base')] as never);
      const work = await store.layers.create('base:1', { name: 'work' });
      await using mounted = await work.mount();
      for (let i = 0; i < 20; i++) writeFileSync(join(mounted.path, `f${i}`), noise(3000, i));
    }
    const takeAway = elsewhere ? over(join(root, 'records')) : undefined;
    try {
      const trace = join(disk.path, 'trace');
      const strace = ['-f', '-qq', '-y', '-o', trace, '-e', 'trace=syncfs,pwrite64,openat', LAUNCHER];
      const env = { ...process.env, LAYERSTORE_ROOT: root };
      const ran = spawnSync('strace', [...strace, 'commit', 'work', 'next:1'], { env, encoding: 'utf8' });
      assert.equal(ran.status, 0, ran.stderr);
      const lines = readFileSync(trace, 'utf8').split('\n');
      const last = (what: RegExp): number => lines.findLastIndex((line) => what.test(line));
      const written = last(/openat\(.*\.split\.zst/);
      const rows = last(/pwrite64\(\d+<[^>]*store\.db-wal>/);
      const layers = last(/syncfs\(\d+<[^>]*\/overlay2>/);
      const ofRecords = last(/syncfs\(\d+<[^>]*\/records>/);
      assert.ok(written > 0 && written < layers && layers < rows, `${written}, ${layers}, ${rows}`);
      if (elsewhere) assert.ok(written < ofRecords && ofRecords < rows, `${written}, ${ofRecords}, ${rows}`);
      else assert.equal(ofRecords, -1);
    } finally {
      takeAway?.();
    }
  });
}

test('a commit fails where an early write-back did, which the kernel may tell once', async (t) => {
  if (!need(t, 'root', 'mount', 'strace')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  // strace counts for each thread: all syncs are to be of one.
  const env = { ...process.env, LAYERSTORE_ROOT: root, UV_THREADPOOL_SIZE: '1' };
  {
    await using store = await openStore({ root });
    await store.images.load([ociImage([layer(file('base', noise(100, 1)))], 'base')] as never);
    await using mounted = await (await store.layers.create('base:1', { name: 'work' })).mount();
    writeFileSync(join(mounted.path, 'file'), 'some');
  }
  const strace = ['-f', '-qq', '-y', '-o', join(disk.path, 'trace'), '-e', 'trace=syncfs'];
  const commit = [LAUNCHER, 'commit', 'work', 'next:1'];
  const once = spawnSync('strace', [...strace, '-e', 'inject=syncfs:error=EIO:when=1', ...commit], {
    env,
    encoding: 'utf8',
  });
  assert.match(once.stderr, /EIO/);
  assert.equal(once.status, 7);
  const made = spawnSync(LAUNCHER, ['images'], { env, encoding: 'utf8' });
  assert.doesNotMatch(made.stdout, /next/);
  const well = spawnSync('strace', [...strace, ...commit], { env, encoding: 'utf8' });
  assert.equal(well.status, 0, well.stderr);
  // Early ones, and the one that seals.
  assert.ok(readFileSync(join(disk.path, 'trace'), 'utf8').split('syncfs(').length > 2);
});

/** Another filesystem in a directory; answers what takes it away. */
function over(directory: string): () => void {
  const mount = spawnSync('mount', ['-t', 'tmpfs', 'layerstore-test', directory], { encoding: 'utf8' });
  assert.equal(mount.status, 0, mount.stderr);
  return () => void spawnSync('umount', [directory]);
}
