import assert from 'node:assert/strict';
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { isStorageError, openStore, type Store, toText } from '../../src/index.ts';
import { openArchive } from '../../src/oci-entry.ts';
import { leavesNothing } from '../faults/unharmed.ts';
import { bulk, type ImageSpec, idOf, noise, ociTar } from '../kit/images.ts';
import { directory, file, layer } from '../kit/layer-builder.ts';
import { DRIVERS, withStore } from '../kit/stores.ts';
import { collect } from '../transport/archives.ts';

const KINDS = ['gzip', 'zstd'] as const;
const UNPACK = { gzip: gunzipSync, zstd: zstdDecompressSync } as const;

/** Small, larger than a block, several blocks, and one whose tar is kept. */
const LAYERS = [
  layer(directory('etc/'), file('etc/motd', 'hello\n')),
  bulk(1, 300, 5000),
  layer(file('big', Buffer.concat([noise(3_000_000, 7), Buffer.alloc(4_000_000, 'text ')]))),
  layer(file('a', 'first'), file('a', 'second')),
];
const APP: ImageSpec = { layers: LAYERS, names: ['docker.io/library/app:1'] };
const BASE: ImageSpec = { layers: LAYERS.slice(0, 2), names: ['docker.io/library/base:1'] };

async function load(store: Store, path: string, ...specs: readonly ImageSpec[]): Promise<void> {
  const archive = join(path, 'images.tar');
  writeFileSync(archive, ociTar(...specs));
  await store.images.load(archive);
}

for (const driver of DRIVERS) {
  test(`save() compresses layers: the same bytes with 1, 2 and 3 threads and by saveTo(), with right digests, and load() takes them (${driver})`, async (t) => {
    await withStore(
      t,
      driver,
      async (first, path) => {
        await load(first, path, APP, BASE);
        for (const compress of KINDS) {
          const options = { compress, epochSeconds: 5 };
          const saved = await collect(first.images.save(['app:1', 'base:1'], options));
          for (const threads of [2, 3]) {
            await using store = await openStore({ root: first.root, threads });
            assert.ok((await collect(store.images.save(['app:1', 'base:1'], options))).equals(saved), `${threads}`);
            const to = join(path, `${compress}-${threads}.tar`);
            const fd = openSync(to, 'wx+');
            await store.images.saveTo(['app:1', 'base:1'], fd, options);
            closeSync(fd);
            assert.ok(readFileSync(to).equals(saved), `saveTo, ${threads}`);
          }
          // Opening verifies documents and the layers' digests are verified as they are read.
          await using archive = await openArchive(join(path, `${compress}-2.tar`));
          const images = archive.images();
          assert.deepEqual(
            images.map(({ config }) => config.digest).toSorted(),
            [APP, BASE].map((spec) => idOf(spec)).toSorted(),
          );
          for (const { layers } of images) {
            for (const { mediaType, blob, diffId } of layers) {
              assert.equal(mediaType, `application/vnd.oci.image.layer.v1.tar+${compress}`);
              const bytes = saved.subarray(blob.offset, blob.offset + blob.length);
              const tar = UNPACK[compress](bytes);
              assert.ok(
                LAYERS.some((one) => one.equals(tar)),
                diffId,
              );
            }
          }
          await using again = await openStore({ root: join(path, `again-${compress}`), driver });
          const loaded = await again.images.load(join(path, `${compress}-3.tar`));
          assert.deepEqual(loaded.map(({ id }) => id).toSorted(), [APP, BASE].map((spec) => idOf(spec)).toSorted());
        }
        assert.deepEqual(readdirSync(join(first.root, 'tmp')), []);
      },
      { threads: 1 },
    );
  });

  test(`saveDirectory() compresses layers, and refuses a full directory before any work (${driver})`, async (t) => {
    await withStore(t, driver, async (store, path) => {
      await load(store, path, APP);
      for (const compress of KINDS) {
        const to = join(path, compress);
        await store.images.saveDirectory(['app:1'], to, { compress });
        await using again = await openStore({ root: join(path, `again-${compress}`), driver });
        assert.equal((await again.images.load(to))[0]?.id, idOf(APP));
        let told = 0;
        const onProgress = (): void => void told++;
        await assert.rejects(store.images.saveDirectory(['app:1'], to, { compress, onProgress }), {
          code: 'already-exists',
        });
        assert.equal(told, 0);
      }
    });
  });

  test(`diff() compresses: unpacked it is the plain diff, with any number of threads, and mounts go on working (${driver})`, async (t) => {
    await withStore(t, driver, async (store, path) => {
      await load(store, path, BASE);
      const work = await store.layers.create('base:1', { name: 'work' });
      {
        await using mounted = await work.mount();
        writeFileSync(join(toText(mounted.path), 'new'), Buffer.concat([noise(2_000_000, 3), Buffer.alloc(9_000_000)]));
      }
      const plain = await collect(work.diff());
      for (const compress of KINDS) {
        const packed = await collect(work.diff({ compress }));
        assert.ok(UNPACK[compress](packed).equals(plain), compress);
        assert.ok(packed.length < 2_100_000, `${packed.length}`);
        await using alone = await openStore({ root: store.root, threads: 1 });
        assert.ok((await collect((await alone.layers.get('work')).diff({ compress }))).equals(packed), compress);
      }
      assert.ok((await collect(work.diff({ compress: 'none' }))).equals(plain));
      // The job's thread left its mount namespace: what it mounts next is seen.
      for (let i = 0; i < 4; i++) await work.commit(`new:${i}`);
      await using mounted = await work.mount();
      assert.equal(readdirSync(toText(mounted.path)).includes('new'), true);
    });
  });

  test(`an abort, or a reader that stops, in the middle of compressing ends it within a second and leaves nothing (${driver})`, async (t) => {
    await withStore(t, driver, async (store, path) => {
      await load(store, path, { ...APP, layers: [bulk(4, 80, 1 << 20), bulk(5, 200, 3000)] });
      const work = await store.layers.create('app:1', { name: 'work' });
      {
        await using mounted = await work.mount();
        writeFileSync(join(toText(mounted.path), 'new'), noise(60_000_000, 3));
      }
      const fd = openSync(join(path, 'out'), 'wx+');
      for (const compress of KINDS) {
        const deeds: readonly ((signal: AbortSignal) => Promise<unknown>)[] = [
          (signal) => collect(store.images.save(['app:1'], { compress, signal })),
          (signal) => store.images.saveTo(['app:1'], fd, { compress, signal }),
          (signal) => store.images.saveDirectory(['app:1'], join(path, 'dir'), { compress, signal }),
          (signal) => collect(work.diff({ compress, signal })),
        ];
        for (const deed of deeds) {
          const reason = new Error('enough');
          const stopped = async (): Promise<void> => {
            const stop = new AbortController();
            const running = deed(stop.signal);
            running.catch(() => {});
            await sleep(15);
            const since = performance.now();
            stop.abort(reason);
            try {
              await running;
            } finally {
              assert.ok(performance.now() - since < 1000, `${compress}: ${performance.now() - since} ms`);
            }
          };
          await leavesNothing(store, stopped, (error) => error === reason, compress);
        }
        for (const stream of [store.images.save(['app:1'], { compress }), work.diff({ compress })]) {
          const reading = stream[Symbol.asyncIterator]();
          for (let i = 0; i < 3; i++) await reading.next();
          await reading.return?.();
        }
      }
      closeSync(fd);
      assert.equal(readdirSync(path).includes('dir'), false);
      assert.deepEqual(openBelow(`${store.root}/tmp/`), []);
      // The memory that an aborted stream left is used again.
      const saved = await collect(store.images.save(['app:1'], { compress: 'gzip' }));
      await using other = await openStore({ root: store.root, threads: 1 });
      assert.ok((await collect(other.images.save(['app:1'], { compress: 'gzip' }))).equals(saved));
    });
  });
}

/** This process's open files below that path: nameless ones tell their directory. */
function openBelow(path: string): string[] {
  const links = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ''; // the one that the listing itself had open
    }
  });
  return links.filter((link) => link.startsWith(path));
}

test('save() of a docker archive refuses compression, and words that are none', async (t) => {
  await withStore(t, 'overlay2', async (store, path) => {
    await load(store, path, BASE);
    const refused = (error: unknown): boolean =>
      isStorageError(error, 'invalid-argument') && /format oci/.test(error.message);
    await assert.rejects(collect(store.images.save(['base:1'], { format: 'docker', compress: 'gzip' })), refused);
    const fd = openSync(join(path, 'out'), 'wx+');
    await assert.rejects(store.images.saveTo(['base:1'], fd, { format: 'docker', compress: 'zstd' }), refused);
    closeSync(fd);
    const plain = await collect(store.images.save(['base:1'], { format: 'docker', compress: 'none' }));
    assert.ok(plain.equals(await collect(store.images.save(['base:1'], { format: 'docker' }))));
    assert.throws(() => store.images.save(['base:1'], { compress: 'xz' as 'gzip' }), TypeError);
  });
});
