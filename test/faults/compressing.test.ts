import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isStorageError, openStore, type Store } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, dockerTar, type ImageSpec, ociTar } from '../kit/images.ts';
import { directory, file, layer } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';
import { collect } from '../transport/archives.ts';
import { resize, usedKib } from './small-disk.ts';
import { leavesNothing } from './unharmed.ts';

const MEASURE = new URL('measure-save.ts', import.meta.url).pathname;
const ROOM_KIB = 64 * 1024;

const APP: ImageSpec = {
  layers: [layer(directory('etc/'), file('etc/motd', 'hello\n')), bulk(1, 300, 2000), bulk(2, 30, 150_000)],
  names: ['docker.io/library/app:1'],
};

for (const driver of DRIVERS) {
  test(`a full disk ends a save() that compresses, says where, and leaves nothing; with room it works (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', ROOM_KIB / 1024);
    await using elsewhere = await filesystem('tmpfs', 64);
    await using store = await openStore({ root: join(disk.path, 'store'), driver, threads: 2 });
    writeFileSync(join(elsewhere.path, 'app.tar'), ociTar(APP));
    await store.images.load(join(elsewhere.path, 'app.tar'));
    const out = openSync(join(elsewhere.path, 'out'), 'w+');
    const full = (error: unknown): boolean => {
      assert.ok(isStorageError(error, 'resource-exhausted'), String(error));
      assert.match(error.message, /^Cannot compress layers in ".*\/store\/tmp": no space/);
      return true;
    };
    for (const compress of ['gzip', 'zstd'] as const) {
      const ways: readonly (() => Promise<unknown>)[] = [
        () => collect(store.images.save(['app:1'], { compress })),
        () => store.images.saveTo(['app:1'], out, { compress }),
        () => store.images.saveDirectory(['app:1'], join(elsewhere.path, 'layout'), { compress }),
      ];
      for (const [i, way] of ways.entries()) {
        const squeezed = async (): Promise<void> => {
          const before = usedKib(disk.path);
          resize(disk.path, Math.ceil(before) + 300 + 1400 * i);
          try {
            await way();
          } finally {
            resize(disk.path, ROOM_KIB);
            assert.ok(usedKib(disk.path) <= before + 64, `${usedKib(disk.path)} KiB, ${before} before`);
          }
        };
        await leavesNothing(store, squeezed, full, `${compress} ${i}`);
      }
      for (const way of ways.slice(0, 2)) await way();
    }
    closeSync(out);
  });
}

test('a save that compresses a layer of 300 MB, or 12 of 25 MB, takes at most 80 MiB more memory than one that does not', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 3072);
  const root = join(disk.path, 'store');
  const pieces = Array.from({ length: 12 }, (_, i) => bulk(i, 5000, 5000).subarray(0, -1024));
  const specs: readonly ImageSpec[] = [
    { layers: [Buffer.concat([...pieces, Buffer.alloc(1024)])], names: ['docker.io/library/huge:1'] },
    { layers: pieces.map((piece) => Buffer.concat([piece, Buffer.alloc(1024)])), names: ['docker.io/library/many:1'] },
  ];
  for (const spec of specs) {
    const archive = join(disk.path, 'image.tar');
    const fd = openSync(archive, 'w');
    writeSync(fd, dockerTar(spec));
    closeSync(fd);
    await loaded(root, (store) => store.images.load(archive));
    rmSync(archive);
  }
  for (const name of ['huge:1', 'many:1']) {
    const [plain = 0, ...packed] = ['none', 'gzip', 'zstd'].map((kind) => {
      const run = [MEASURE, root, name, kind, join(disk.path, 'out')];
      const { status, stdout, stderr } = spawnSync(process.execPath, run, { encoding: 'utf8', timeout: 120_000 });
      assert.deepEqual([status, stderr], [0, '']);
      return Number(stdout);
    });
    t.diagnostic(`${name}: ${plain} MiB plain, ${packed.join(' and ')} compressed`);
    for (const mib of packed) assert.ok(mib < plain + 80, `${name}: ${mib} MiB, ${plain} without`);
  }
});

async function loaded(root: string, task: (store: Store) => Promise<unknown>): Promise<void> {
  await using store = await openStore({ root, driver: 'overlay2' });
  await task(store);
}
