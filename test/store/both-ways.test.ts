import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { globSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type TestContext, test } from 'node:test';
import { Pool } from '../../src/base/pool.ts';
import { type DriverName, openStore, type SaveOptions, type Store } from '../../src/index.ts';
import { makeStrangeImage } from '../interop/strange-image.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, dockerTar, ociTar } from '../kit/images.ts';
import { directory, file, hardlink, layer, ociImage, opaque, symlink, whiteout } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';
import { dumpTree } from '../kit/tree-dump.ts';

/** Layers that need those below in every way, small ones and such as take a second thread, in every form of archive. */
const IMAGES: Readonly<Record<string, (directory: string) => Promise<string | Buffer> | Buffer>> = {
  'layers that need each other': () =>
    ociImage([
      layer(
        directory('a/', { mode: 0o1777, mtimeNs: 7n }),
        file('a/x', 'x', { uid: 5 }),
        file('a/y', 'y'),
        symlink('l', 'a'),
      ),
      layer(file('a/new', 'n'), whiteout('a/y'), hardlink('h', 'a/x'), whiteout('never')),
      layer(opaque('a'), file('a/last', 'z'), file('l', 'no link')),
      layer(opaque(''), file('only', 'o')),
    ]),
  'large and small layers, compressed': () =>
    ociTar({
      layers: [bulk(1, 300, 9000), bulk(2, 2, 2_500_000), bulk(3, 10, 10), bulk(4, 400, 7000)],
      compress: 'gzip',
    }),
  'a zstd image': () => ociTar({ layers: [bulk(1, 40, 60_000), bulk(2, 10, 10)], compress: 'zstd' }),
  'a docker archive': () =>
    dockerTar({ layers: [bulk(1, 40, 60_000), bulk(2, 10, 10)], names: ['docker.io/library/old:1'] }),
  'several images': () =>
    ociTar(
      { layers: [bulk(1, 40, 60_000), bulk(2, 10, 10)], names: ['docker.io/library/one:1'], compress: 'gzip' },
      { layers: [bulk(1, 40, 60_000), bulk(3, 9, 20)], names: ['docker.io/library/two:1', 'docker.io/library/two:2'] },
      { layers: [bulk(3, 9, 20)], author: 'the layer of another, as a base' },
    ),
  'all that a layer can hold': async (at) => (await makeStrangeImage(at)).layout,
};

/** Of 8 MiB and more compressed: hashed by a thread of its own where it is the last that waits and a thread is free. */
const TAPPED: Readonly<Record<string, () => Buffer>> = {
  'one layer, hashed beside': () => ociTar({ layers: [bulk(5, 9, 1_000_000)], compress: 'gzip' }),
  'the last layer, hashed beside': () =>
    ociTar({ layers: [bulk(5, 10, 1_000_000), bulk(6, 9, 1_000_000)], compress: 'gzip' }),
};

/** Real ones where somebody has them, as bench/README.md says. */
const REAL: readonly string[] =
  (process.env['LAYERSTORE_IMAGES'] ?? '') === ''
    ? []
    : globSync(join(resolve(process.env['LAYERSTORE_IMAGES'] as string), '*.oci.tar'));

interface LayerFiles {
  readonly chain_id: string;
  readonly driver_id: string;
  readonly record_file: string | null;
  readonly kept_file: string | null;
}

/** Everything that a load leaves: the rows, and by chain id the trees and the records; then what a save gives. */
async function result(store: Store, driver: DriverName): Promise<unknown> {
  using database = new DatabaseSync(join(store.root, 'store.db'), { readOnly: true });
  const files = database
    .prepare('SELECT chain_id, driver_id, record_file, kept_file FROM layers ORDER BY chain_id')
    .all() as unknown as LayerFiles[];
  const bytes = (path: string | null): string | undefined =>
    path === null ? undefined : sha256([readFileSync(join(store.root, path))]);
  // As they lie on disk, whiteouts and opaque directories included.
  const homeOf = (id: string): string => (driver === 'vfs' ? `vfs/dir/${id}` : `overlay2/${id}/diff`);
  const layers = files.map(({ chain_id, driver_id, record_file, kept_file }) => [
    chain_id,
    {
      record: bytes(record_file),
      kept: bytes(kept_file),
      tree: untimed(dumpTree(join(store.root, homeOf(driver_id))).join('\n')),
    },
  ]);
  const stored = await store.layers.stored();
  assert.deepEqual(new Set(stored.map((row) => row.chainId)), new Set(layers.map(([chain]) => chain)));
  assert.equal(layers.length, stored.length, 'a layer is there twice');
  const rows = stored.map(({ chainId, diffId, sizeBytes, tarBytes, exact }) => [
    chainId,
    { diffId, sizeBytes, tarBytes, exact },
  ]);
  const images = (await store.images.list()).map(({ id }) => id).sort();
  const saved = async (options: SaveOptions): Promise<string> => {
    const hash = createHash('sha256');
    for await (const chunk of store.images.save(images, options)) hash.update(chunk);
    return hash.digest('hex');
  };
  return {
    layers: Object.fromEntries(layers),
    rows: Object.fromEntries(rows),
    images,
    oci: await saved({ format: 'oci' }),
    docker: await saved({ format: 'docker' }),
  };
}

function sha256(parts: readonly Uint8Array[]): string {
  const hash = createHash('sha256');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

/** A whiteout's own time says nothing. */
function untimed(lines: string): string {
  return lines.replace(/( character-device 0 0:0 0,0 0) \d+/g, '$1');
}

/** Loads it with so many threads, each time into a new store, and compares what the stores are then. */
async function loadBothWays(
  t: TestContext,
  driver: DriverName,
  sizeMiB: number,
  make: (directory: string) => Promise<string | Buffer> | string | Buffer,
): Promise<ReadonlyMap<number, number>> {
  await using disk = await filesystem('tmpfs', sizeMiB);
  const made = await make(disk.path);
  const run = t.mock.method(Pool.prototype, 'run');
  const hashed = new Map<number, number>();
  let first: unknown;
  for (const threads of [1, 2, 5]) {
    const root = join(disk.path, `store${threads}`);
    {
      await using store = await openStore({ root, driver, threads });
      run.mock.resetCalls();
      await store.images.load(typeof made === 'string' ? made : ([made] as never));
      hashed.set(threads, run.mock.calls.filter(({ arguments: [job] }) => job?.name === 'hash').length);
      const left = await result(store, driver);
      first ??= left;
      assert.deepEqual(left, first, `with ${threads} threads`);
      assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    }
    rmSync(root, { recursive: true });
  }
  return hashed;
}

for (const driver of DRIVERS) {
  const title = 'load() one by one and side by side make the same trees, records, digests and archives';
  for (const [what, make] of Object.entries(IMAGES)) {
    test(`${title}: ${what} (${driver})`, async (t) => {
      if (!need(t, 'root', 'mount')) return;
      await loadBothWays(t, driver, 512, make);
    });
  }

  for (const [what, make] of Object.entries(TAPPED)) {
    test(`${title}: ${what} (${driver})`, async (t) => {
      if (!need(t, 'root', 'mount')) return;
      const hashed = await loadBothWays(t, driver, 512, make);
      assert.equal(hashed.get(1), 0, 'one thread does all');
      assert.ok((hashed.get(5) ?? 0) > 0, 'no thread hashed beside');
    });
  }

  for (const path of REAL) {
    test(`${title}: ${path} (${driver})`, async (t) => {
      if (!need(t, 'root', 'mount')) return;
      await loadBothWays(t, driver, 8192, () => path);
    });
  }
}
