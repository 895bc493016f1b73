import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chownSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { type Bytes, isStorageError, openStore, toText } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, type ImageSpec, idOf, ociTar } from '../kit/images.ts';
import { directory, file, layer } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import { DRIVERS } from '../kit/stores.ts';
import { fillBut, resize, usedKib } from './small-disk.ts';
import { leavesNothing } from './unharmed.ts';

const APP: ImageSpec = {
  layers: [
    layer(directory('etc/'), file('etc/motd', 'hello\n')),
    bulk(1, 200, 2000),
    bulk(2, 5, 150_000),
    // Kept as it came, so that there is a tar to write too.
    layer(directory('d/'), file('d/f', Buffer.alloc(300_000, 'first ')), file('d/f', Buffer.alloc(100_000, 'second '))),
  ],
  names: ['docker.io/library/app:1'],
};
const ROOM_KIB = 64 * 1024;

function full(error: unknown): boolean {
  if (isStorageError(error, 'resource-exhausted') && !error.message.includes('\n')) return true;
  throw error;
}

/** Sizes from nearly nothing more to what the whole needs: where it fails differs each time. */
function* sizes(steps: number, wholeKib: number): Generator<number> {
  for (let i = 0; i < steps; i++) yield Math.ceil((wholeKib * i) / steps) + 4 * (i % 3);
}

for (const driver of DRIVERS) {
  test(`a full disk ends load() and commit() with resource-exhausted and leaves nothing; with more room they work (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using archives = await filesystem('tmpfs', 64);
    await using disk = await filesystem('tmpfs', ROOM_KIB / 1024);
    await using store = await openStore({ root: join(disk.path, 'store'), driver, threads: 2 });
    const archive = ociTar(APP);
    const path = join(archives.path, 'app.tar');
    writeFileSync(path, archive);
    writeFileSync(`${path}.gz`, gzipSync(archive, { level: 1 }));
    const sources: Readonly<Record<string, () => Bytes>> = {
      file: () => path,
      gzip: () => `${path}.gz`,
      pipe: async function* () {
        for (let at = 0; at < archive.length; at += 65_536) yield archive.subarray(at, at + 65_536);
      } as () => Bytes,
    };
    const squeezed = async (
      what: string,
      steps: number,
      deed: () => Promise<unknown>,
      takeBack: () => Promise<unknown>,
    ): Promise<void> => {
      const before = usedKib(disk.path);
      await deed();
      const whole = usedKib(disk.path) - before;
      await takeBack();
      let failed = 0;
      for (const more of sizes(steps, whole)) {
        resize(disk.path, Math.ceil(usedKib(disk.path)) + more);
        let done = false;
        const tried = async (): Promise<void> => {
          try {
            await deed();
            done = true;
          } finally {
            resize(disk.path, ROOM_KIB);
          }
          await takeBack();
          throw new Error('done');
        };
        await leavesNothing(
          store,
          tried,
          (error) => (error as Error).message === 'done' || full(error),
          `${what} with ${more} KiB of ${whole}`,
        );
        if (!done) failed++;
      }
      assert.ok(failed > steps / 3, `${what}: ${failed} of ${steps} found the disk full`);
    };
    for (const [what, source] of Object.entries(sources)) {
      const load = (): Promise<unknown> => store.images.load(source());
      await squeezed(`load from a ${what}`, 10, load, () => store.images.remove('app:1'));
    }
    assert.equal((await store.images.load(path))[0]?.id, idOf(APP));
    const work = await store.layers.create('app:1', { name: 'work' });
    {
      await using mounted = await work.mount();
      for (let i = 0; i < 40; i++) writeFileSync(join(toText(mounted.path), `new-${i}`), Buffer.alloc(9000, i));
    }
    await squeezed(
      'commit',
      8,
      () => work.commit('new:1'),
      () => store.images.remove('new:1'),
    );
    const create = (): Promise<unknown> => store.layers.create('app:1', { name: 'other' });
    if (driver === 'vfs') await squeezed('create', 4, create, () => store.layers.remove('other'));
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  });
}

test('a store on a disk that users have filled still opens, and gives room by removing', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'setpriv')) return;
  await using disk = await filesystem('ext4', 48, ['-m', '0']); // else root has blocks of its own
  const root = join(disk.path, 'store');
  {
    await using store = await openStore({ root, driver: 'overlay2', threads: 2 });
    await store.images.load(
      (async function* () {
        yield ociTar(APP);
      })(),
    );
    await store.layers.create('app:1', { name: 'work' });
  }
  mkdirSync(join(disk.path, 'home'));
  chownSync(join(disk.path, 'home'), 65_534, 65_534);
  const filler = join(disk.path, 'home/filler');
  const asUser = ['--reuid=65534', '--clear-groups', 'sh', '-c', 'cat /dev/zero > "$0"', filler];
  assert.notEqual(spawnSync('setpriv', asUser).status, 0, 'the disk is full');
  fillBut(disk.path, 0); // the last write may have been too large for the rest
  await using store = await openStore({ root, threads: 2 });
  assert.deepEqual(
    (await store.images.list()).map(({ id }) => id),
    [idOf(APP)],
  );
  assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  await store.layers.remove('work');
  await store.images.remove('app:1');
  assert.deepEqual(rootDump(root), []);
});
