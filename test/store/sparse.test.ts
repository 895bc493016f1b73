import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, globSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { digestOf } from '../../src/base/digest.ts';
import { openStore, toText } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';
import { collect } from '../transport/archives.ts';

const MIB = 1 << 20;
const BLOCK = 4096;

/** A file with `runs` of data, and holes around them. */
function makeSparse(
  path: string,
  sizeBytes: number,
  runs: readonly (readonly [offset: number, length: number])[],
): void {
  const fd = openSync(path, 'wx');
  for (const [offset, length] of runs) writeSync(fd, Buffer.alloc(length, 'x'), 0, length, offset);
  ftruncateSync(fd, sizeBytes);
  closeSync(fd);
}

for (const driver of DRIVERS) {
  for (const kind of ['ext4', 'tmpfs'] as const) {
    test(`commit() of files with holes takes no disk for the holes, and gives the tar of plain zeros back (${driver}, ${kind})`, async (t) => {
      if (!need(t, 'root', 'mount', ...(kind === 'ext4' ? ['mkfs.ext4'] : []))) return;
      await using disk = await filesystem(kind, 256);
      await using store = await openStore({ root: join(disk.path, 'store'), driver, threads: 2 });
      const work = await store.layers.create();
      const files: Readonly<Record<string, readonly [number, readonly (readonly [number, number])[]]>> = {
        'data-in-the-middle': [64 * MIB, [[30 * MIB + 100, BLOCK]]],
        'data-at-the-ends': [
          64 * MIB + 5,
          [
            [0, 1],
            [64 * MIB, 5],
          ],
        ],
        'only-a-hole': [64 * MIB - 1, []],
        'less-than-a-block': [100, []],
        dense: [MIB, [[0, MIB]]],
      };
      {
        await using mounted = await work.mount();
        for (const [name, [size, runs]] of Object.entries(files)) {
          makeSparse(join(toText(mounted.path), name), size, runs);
        }
      }
      const tar = await collect(work.diff());
      // More than the disk holds, were the holes written.
      const image = await work.commit('sparse:1');
      assert.deepEqual(image.diffIds, [digestOf(tar)]);
      for (const [name, [size, runs]] of Object.entries(files)) {
        const found = globSync(`${store.driver.home}/**/${name}`).filter((path) => !path.includes(work.id));
        assert.equal(found.length, 1);
        const { size: bytes, blocks } = statSync(found[0] as string);
        assert.equal(bytes, size);
        const data = runs.reduce((sum, [, length]) => sum + length + 2 * BLOCK, 0);
        assert.ok(blocks * 512 <= data, `${name}: ${blocks * 512} bytes on disk`);
        const wanted = Buffer.alloc(size);
        for (const [offset, length] of runs) wanted.fill('x', offset, offset + length);
        assert.ok(readFileSync(found[0] as string).equals(wanted), name);
      }
      assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    });
  }
}
