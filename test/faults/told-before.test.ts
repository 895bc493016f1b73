import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fromText } from '../../src/base/bytes.ts';
import { isStorageError, openStore } from '../../src/index.ts';
import { syncfs, syncfsBeside, Witness } from '../../src/linux/sync.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, ociTar } from '../kit/images.ts';
import { need } from '../kit/require.ts';
import { resize } from './small-disk.ts';

// A disk that loses what is written to it, and is well again a moment later: a thin pool that is extended, a path that
// comes back. The kernel tells of the loss once, to whoever syncs first.

/** An ext4 of 400 MiB on a filesystem that has room for less. */
async function thin(sizeMiB: number): Promise<AsyncDisposable & { readonly path: string; extend(): void }> {
  const pool = await filesystem('tmpfs', sizeMiB);
  const [image, path] = [join(pool.path, 'image'), join(pool.path, 'fs')];
  const run = (command: string, ...args: string[]): void => {
    const { status, stderr } = spawnSync(command, args, { encoding: 'utf8' });
    assert.equal(status, 0, `${command}: ${stderr}`);
  };
  writeFileSync(image, '');
  truncateSync(image, 400 << 20);
  mkdirSync(path);
  run('mkfs.ext4', '-q', '-m', '0', '-E', 'lazy_itable_init=1,nodiscard', '-O', '^has_journal', image);
  run('mount', '-o', 'loop,errors=continue', image, path);
  return {
    path,
    extend: () => resize(pool.path, 600 << 10),
    async [Symbol.asyncDispose]() {
      run('umount', path);
      await pool[Symbol.asyncDispose]();
    },
  };
}

/** The error that a sync ends with. */
function synced(witness: Witness): unknown {
  try {
    syncfs(witness.fd, witness.path);
    return undefined;
  } catch (error) {
    return error;
  }
}

function syncedAnew(path: string): unknown {
  using witness = new Witness(fromText(path));
  return synced(witness);
}

const told = (error: unknown): boolean =>
  isStorageError(error, 'unavailable') || isStorageError(error, 'resource-exhausted');

test('a witness sees a loss of which another was told; who comes later does not', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4')) return;
  await using disk = await thin(16);
  using before = new Witness(fromText(disk.path));
  using beside = new Witness(fromText(disk.path));
  writeFileSync(join(disk.path, 'file'), Buffer.alloc(40 << 20, 1));
  assert.ok(told(syncedAnew(disk.path)));
  disk.extend();
  assert.equal(syncedAnew(disk.path), undefined);
  assert.ok(told(synced(before)));
  assert.equal(synced(before), undefined, 'once');
  // In another thread, whose errno nobody knows.
  await assert.rejects(syncfsBeside(beside.fd, beside.path), (error) => {
    return isStorageError(error, 'unavailable') && error.path === beside.path;
  });
  await syncfsBeside(beside.fd, beside.path);
});

test('load() whose files were lost registers nothing, whoever was told of it first', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4')) return;
  await using disk = await thin(70);
  await using store = await openStore({ root: join(disk.path, 'store') });
  // Larger layers are written back by the load itself, which tells of a loss.
  const layers = [1, 2, 3, 4, 5, 6].map((seed) => bulk(seed, 7, 1_000_000));
  const archive = ociTar({ layers, names: ['docker.io/library/lost:1'] });
  let later: unknown = 'nobody looked';
  const loading = store.images.load(
    (async function* () {
      yield archive;
    })(),
    {
      onProgress({ step }) {
        if (step !== 'settle' || later !== 'nobody looked') return;
        syncedAnew(disk.path); // told now, or whoever wrote it back before
        disk.extend();
        later = syncedAnew(disk.path);
      },
    },
  );
  await assert.rejects(
    loading,
    (error) => told(error) && /^Cannot sync the filesystem of "\/.*overlay2"/.test(String((error as Error).message)),
  );
  assert.equal(later, undefined, 'who opens now hears nothing of it');
  assert.deepEqual(await store.images.list(), []);
});
