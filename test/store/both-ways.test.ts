import assert from 'node:assert/strict';
import { globSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { digestOf } from '../../src/base/digest.ts';
import { openStore, type Store } from '../../src/index.ts';
import { makeStrangeImage } from '../interop/strange-image.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, ociTar } from '../kit/images.ts';
import { directory, file, hardlink, layer, ociImage, opaque, symlink, whiteout } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';
import { dumpTree } from '../kit/tree-dump.ts';

/** Layers that need those below in every way, small ones and such as take a second thread. */
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
  'all that a layer can hold': async (at) => (await makeStrangeImage(at)).layout,
};

/** Everything that a load leaves: the rows, the trees and the records, by chain id. */
async function result(store: Store, driver: string): Promise<unknown> {
  const stored = await store.layers.stored();
  const records = readdirSync(join(store.root, 'records')).map((name) =>
    digestOf(readFileSync(join(store.root, 'records', name))),
  );
  const homes = globSync(driver === 'vfs' ? 'vfs/dir/*' : 'overlay2/*/diff', { cwd: store.root });
  // As they lie on disk, whiteouts and opaque directories included; ids are random, so the trees are their own names.
  const trees = homes.map((home) => untimed(dumpTree(join(store.root, home)).join('\n'))).sort();
  const rows = stored.map(({ chainId, diffId, sizeBytes, tarBytes, exact }) => ({
    chainId,
    diffId,
    sizeBytes,
    tarBytes,
    exact,
  }));
  return { driver, records: records.sort(), trees, rows };
}

/** A whiteout's own time says nothing. */
function untimed(lines: string): string {
  return lines.replace(/( character-device 0 0:0 0,0 0) \d+/g, '$1');
}

for (const driver of DRIVERS) {
  for (const [what, make] of Object.entries(IMAGES)) {
    test(`load() one by one and side by side make the same trees, records and digests: ${what} (${driver})`, async (t) => {
      if (!need(t, 'root', 'mount')) return;
      await using disk = await filesystem('tmpfs', 512);
      const made = await make(disk.path);
      const archive = typeof made === 'string' ? made : [made];
      const results: unknown[] = [];
      for (const threads of [1, 2, 5]) {
        await using store = await openStore({ root: join(disk.path, `store${threads}`), driver, threads });
        await store.images.load(archive as never);
        results.push(await result(store, driver));
        assert.deepEqual(await store.upkeep.check({ deep: true }), []);
      }
      assert.deepEqual(results[1], results[0]);
      assert.deepEqual(results[2], results[0]);
    });
  }
}
