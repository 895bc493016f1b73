import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { after, before, type TestContext, test } from 'node:test';
import fc from 'fast-check';
import { toText } from '../../src/base/bytes.ts';
import { digestOf, hexOf } from '../../src/base/digest.ts';
import { isStorageError, type LoadedImage, type Store } from '../../src/index.ts';
import { readTar } from '../../src/tar/read.ts';
import { applyEdits, edits, making } from '../kit/edits.ts';
import {
  device,
  directory,
  fifo,
  file,
  hardlink,
  layer,
  ociImage,
  opaque,
  type Piece,
  symlink,
  whiteout,
} from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { openStores, type Stores } from '../kit/stores.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { collect } from '../transport/archives.ts';

// Equations of whole layers, on both drivers. fast-check prints seed and path of a failure.

/** More on a machine with time: LAYERSTORE_LAW_FACTOR=20. */
const runs = (usual: number): number => usual * Number(process.env['LAYERSTORE_LAW_FACTOR'] ?? 1);

let stores: Stores | undefined;
before(async () => {
  if (process.getuid?.() === 0) stores = await openStores();
});
after(() => stores?.[Symbol.asyncDispose]());

function opened(t: TestContext): Stores | undefined {
  return need(t, 'root', 'mount') ? stores : undefined;
}

async function viewOf(store: Store, image: LoadedImage): Promise<string[]> {
  await using view = await store.layers.view(image.id);
  return dumpTree(toText(view.path));
}

/** Each law's images go again, so that the next run meets an empty store. */
async function clear(store: Store): Promise<void> {
  for (const writable of await store.layers.list()) await writable.remove();
  for (const image of await store.images.list()) await store.images.remove(image.id, { force: true });
}

test('apply(diff(A, B)) on a copy of A equals B: commit gives what the writable layer shows (invariant 5)', async (t) => {
  const both = opened(t);
  if (both === undefined) return;
  await fc.assert(
    fc.asyncProperty(making(15), edits(15), edits(8), async (made, changing, more) => {
      const trees: string[][] = [];
      for (const store of both.each) {
        try {
          let base: LoadedImage | undefined;
          for (const steps of [made, changing, more]) {
            const writable = await store.layers.create(base);
            let shown: string[];
            {
              await using mounted = await writable.mount();
              applyEdits(toText(mounted.path), steps);
              shown = dumpTree(toText(mounted.path));
            }
            const image = await writable.commit(undefined);
            assertSame(await viewOf(store, image), shown, store);
            base = image;
          }
          trees.push(await viewOf(store, base as LoadedImage));
          assert.deepEqual(await store.upkeep.check({ deep: true }), []);
        } finally {
          await clear(store);
        }
      }
    }),
    { numRuns: runs(25) },
  );
});

/** Names that a copy-up alone parted stay linked (driver-behaviour D7, exceptions); all else is equal. */
function assertSame(committed: readonly string[], shown: readonly string[], store: Store): void {
  const strip = (lines: readonly string[]): string[] => lines.map((line) => line.replace(/ link=.*/, ''));
  assert.deepEqual(strip(committed), strip(shown), store.driver.name);
  for (const line of shown) if (line.includes(' link=')) assert.ok(committed.includes(line), line);
}

const NAMES = ['a', 'b', 'a/b', 'a/c', 'b/a', 'a/b/c', 'b/a/b', './a', 'l', 'l/a', 'a/../b', '../a/c'] as const;
const name = fc.constantFrom(...NAMES);
const looks = fc.record({
  mode: fc.constantFrom(0o644, 0o755, 0o4711, 0o1777, 0),
  uid: fc.nat({ max: 3 }),
  mtimeNs: fc.bigInt({ min: -5_000_000_000n, max: 5_000_000_000n }),
});
const content = fc.constantFrom('', 'x', 'other', 'long'.repeat(500));

/** Entries that meet: few names, all types, deletions anywhere. */
const entry: fc.Arbitrary<Piece> = fc.oneof(
  { weight: 6, arbitrary: fc.tuple(name, content, looks).map((all) => file(...all)) },
  { weight: 5, arbitrary: fc.tuple(name, looks).map((all) => directory(...all)) },
  { weight: 3, arbitrary: fc.tuple(name, name).map(([from, to]) => hardlink(from, to)) },
  {
    weight: 3,
    arbitrary: fc.tuple(name, fc.constantFrom('a', '/a/b', '../b', 'b/a', 'nowhere')).map((all) => symlink(...all)),
  },
  { weight: 3, arbitrary: name.map(whiteout) },
  { weight: 2, arbitrary: fc.constantFrom('', 'a', 'a/b', 'l').map(opaque) },
  { weight: 2, arbitrary: fc.constantFrom('l/b', 'l/x', 'l/a/b', 'l/b/x').map(whiteout) },
  { weight: 1, arbitrary: fc.tuple(name, looks).map((all) => fifo(...all)) },
  { weight: 1, arbitrary: name.map((path) => device(path, 1, 3)) },
  { weight: 1, arbitrary: fc.tuple(fc.constantFrom('s', 'a/s'), fc.nat({ max: 3 })).map(sparse) },
);

function sparse([path, blocks]: readonly [string, number]): Piece {
  const runs = Array.from({ length: blocks }, (_, i) => ({ offset: i * 8192 + 4096, length: 512 }));
  return file(path, 'd'.repeat(512 * blocks), { sparse: runs, sizeBytes: 65_536 });
}

/** Something to link to, to delete and to hide. */
const BASE = layer(
  directory('a/', { mode: 0o711, mtimeNs: 5n }),
  file('a/b', 'below', { uid: 1 }),
  hardlink('a/c', 'a/b'),
  file('b/a/b', 'deep'),
  symlink('l', 'a'),
);

const layers = fc
  .array(
    fc.array(entry, { minLength: 1, maxLength: 7, size: 'max' }).map((pieces) => layer(...pieces)),
    { minLength: 1, maxLength: 3, size: 'max' },
  )
  .map((tars) => [BASE, ...tars]);

test('load() is the same function on every driver, and save() is its inverse, for any layers', async (t) => {
  const both = opened(t);
  if (both === undefined) return;
  let taken = 0;
  await fc.assert(
    fc.asyncProperty(layers, async (tars) => {
      const results: unknown[] = [];
      for (const store of both.each) {
        try {
          const [image] = await store.images.load(once(ociImage(tars)));
          assert.ok(image !== undefined);
          taken++;
          await assertGivenBack(store, image, tars);
          assert.deepEqual(await store.upkeep.check({ deep: true }), []);
          const stored = await store.layers.stored(image.id);
          results.push({
            tree: await viewOf(store, image),
            notes: image.notes,
            layers: stored.map(({ diffId, chainId, sizeBytes, exact }) => ({ diffId, chainId, sizeBytes, exact })),
          });
        } catch (error) {
          if (!isStorageError(error)) throw error;
          assert.equal(error.code, 'corrupt');
          results.push('refused'); // which of several bad layers is told first is a matter of time
          assert.deepEqual(await store.layers.stored(), []);
        } finally {
          await clear(store);
        }
      }
      assert.deepEqual(results[1], results[0]);
    }),
    { numRuns: runs(200) },
  );
  assert.ok(taken > 40, `only ${taken} of the images were taken: the law says little`);
});

async function assertGivenBack(store: Store, image: LoadedImage, tars: readonly Buffer[]): Promise<void> {
  const members = new Map<string, Buffer>();
  for await (const { entry, payload } of readTar(store.images.save([image.id], { format: 'oci' }))) {
    members.set(toText(entry.name), await collect(payload));
  }
  for (const tar of tars)
    assert.ok(members.get(`blobs/sha256/${hexOf(digestOf(tar))}`)?.equals(tar), 'a layer is another');
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

function run(command: string, ...args: readonly string[]): Buffer {
  const { status, stdout, stderr, error } = spawnSync(command, args, { maxBuffer: 1 << 28 });
  assert.equal(status, 0, `${command}: ${error?.message ?? stderr}`);
  return stdout;
}

const GNU = ['--numeric-owner', '--xattrs', '--xattrs-include=*'] as const;

test('load() of what GNU tar packed gives the tree, and GNU tar unpacks what export() gives', async (t) => {
  const both = opened(t);
  if (both === undefined || !need(t, 'tar')) return;
  let count = 0;
  await fc.assert(
    fc.asyncProperty(making(30), async (made) => {
      const at = `${both.path}/gnu-${count++}`;
      mkdirSync(`${at}/tree`, { recursive: true });
      mkdirSync(`${at}/out`);
      applyEdits(`${at}/tree`, made);
      const tree = dumpTree(`${at}/tree`);
      for (const format of ['pax', 'gnu']) {
        const times = format === 'pax' ? ['--pax-option=delete=atime,delete=ctime'] : [];
        const tar = run(
          'tar',
          '-C',
          `${at}/tree`,
          `--format=${format}`,
          ...(format === 'pax' ? GNU : ['--numeric-owner']),
          ...times,
          '-cf',
          '-',
          '.',
        );
        for (const store of both.each) {
          try {
            const [image] = await store.images.load(once(ociImage([tar])));
            assert.ok(image !== undefined);
            // GNU's own format has whole seconds and no attributes.
            if (format === 'pax') assert.deepEqual(await viewOf(store, image), tree);
            const exported = await collect(store.images.export(image.id));
            const { status, stderr } = spawnSync('tar', ['-C', `${at}/out`, ...GNU, '-xpf', '-'], { input: exported });
            assert.equal(status, 0, String(stderr));
            assert.deepEqual(dumpTree(`${at}/out`), await viewOf(store, image));
          } finally {
            await clear(store);
            rmSync(`${at}/out`, { recursive: true });
            mkdirSync(`${at}/out`);
          }
        }
      }
      rmSync(at, { recursive: true });
    }),
    { numRuns: runs(10) },
  );
});

test('umoci unpacks what saveDirectory() gives to the tree that we show', async (t) => {
  const both = opened(t);
  if (both === undefined || !need(t, 'umoci')) return;
  const [store] = both.each;
  assert.ok(store !== undefined);
  let count = 0;
  await fc.assert(
    fc.asyncProperty(making(20), edits(15), async (made, changing) => {
      const at = `${both.path}/umoci-${count++}`;
      mkdirSync(at);
      try {
        let base: LoadedImage | undefined;
        for (const steps of [made, changing]) {
          const writable = await store.layers.create(base);
          {
            await using mounted = await writable.mount();
            applyEdits(toText(mounted.path), steps);
          }
          base = await writable.commit('law:1');
        }
        assert.ok(base !== undefined);
        await store.images.saveDirectory(['law:1'], `${at}/layout`);
        run('umoci', 'unpack', '--image', `${at}/layout:1`, `${at}/bundle`);
        // Go's archive/tar takes an empty value for none (pax: the record is deleted).
        const strip = (lines: readonly string[]): string[] =>
          lines.slice(1).map((line) => line.replace(/ link=.*/, '').replace(/ "user\.[^"]*"=(?= |$)/g, ''));
        assert.deepEqual(strip(dumpTree(`${at}/bundle/rootfs`)), strip(await viewOf(store, base)));
      } finally {
        await clear(store);
        rmSync(at, { recursive: true });
      }
    }),
    { numRuns: runs(10) },
  );
});
