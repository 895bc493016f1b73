import assert from 'node:assert/strict';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { fromText, toText } from '../../src/base/bytes.ts';
import { digestOf } from '../../src/base/digest.ts';
import { IDENTITY, type IdMaps } from '../../src/base/id-map.ts';
import { SILENT } from '../../src/base/log.ts';
import { parseLayerId } from '../../src/driver/ids.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import type { ApplyReport } from '../../src/graph/apply.ts';
import { type StorageDriver, storageDriver } from '../../src/graph/storage-driver.ts';
import { openThreads } from '../../src/graph/threads.ts';
import { type DriverName, isStorageError, type LayerId } from '../../src/index.ts';
import { type FilesystemName, filesystem, needsOf } from '../kit/filesystems.ts';
import { device, directory, fifo, file, hardlink, layer, symlink, whiteout } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { collect } from '../transport/archives.ts';

// StorageDriver.apply() by itself, where the store is not enough: id maps, other filesystems, streams, sizes.

const id = (name: string): LayerId => parseLayerId(fromText(name));

interface Options {
  readonly on?: FilesystemName;
  readonly idMaps?: IdMaps;
}

async function withDriver(
  t: TestContext,
  name: DriverName,
  { on = 'tmpfs', idMaps = IDENTITY }: Options,
  task: (driver: StorageDriver, path: string) => Promise<void>,
): Promise<void> {
  if (!need(t, ...needsOf(on))) return;
  await using disk = await filesystem(on);
  const path = disk.path;
  for (const dir of ['run', 'scratch']) mkdirSync(`${path}/${dir}`);
  const threads = await openThreads(2);
  const settings = {
    home: fromText(`${path}/home`),
    run: fromText(`${path}/run`),
    options: [],
    idMaps,
    log: SILENT,
    perform: threads.perform,
  };
  await using driver = storageDriver(await openLayerDriver(name, settings), threads, fromText(`${path}/scratch`));
  await task(driver, path);
}

async function* pieces(tar: Uint8Array, size = 700): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < tar.length; at += size) yield tar.subarray(at, at + size);
}

/** Makes a chain of layers, named `l0`, `l1`…, sealed; answers what was said of the last. */
async function stack(driver: StorageDriver, ...tars: readonly Uint8Array[]): Promise<ApplyReport> {
  let report: ApplyReport | undefined;
  for (const [i, tar] of tars.entries()) {
    await driver.create(id(`l${i}`), { writable: false, ...(i === 0 ? {} : { parent: id(`l${i - 1}`) }) });
    report = await driver.apply(id(`l${i}`), pieces(tar));
    await driver.seal([id(`l${i}`)]);
  }
  assert.ok(report !== undefined);
  return report;
}

async function shown(driver: StorageDriver, layerId: LayerId): Promise<string[]> {
  await using mounted = await driver.mount(layerId, { readonly: true });
  return dumpTree(toText(mounted.path));
}

const acl = (user: number): Buffer => {
  // Version 2; then tag, permissions, id of: owner, one user, group, mask, others (linux/posix_acl_xattr.h).
  const entries = [
    [1, 7, -1],
    [2, 5, user],
    [4, 5, -1],
    [16, 7, -1],
    [32, 0, -1],
  ] as const;
  const bytes = Buffer.alloc(4 + entries.length * 8);
  bytes.writeUInt32LE(2, 0);
  for (const [i, [tag, permissions, who]] of entries.entries()) {
    bytes.writeUInt16LE(tag, 4 + i * 8);
    bytes.writeUInt16LE(permissions, 6 + i * 8);
    bytes.writeInt32LE(who, 8 + i * 8);
  }
  return bytes;
};

for (const name of DRIVERS) {
  test(`apply() maps every id from container to host, ACLs and implied directories too (${name})`, async (t) => {
    const range = [{ container: 0, host: 100_000, size: 65_536 }];
    await withDriver(t, name, { idMaps: { uid: range, gid: range } }, async (driver) => {
      const xattrs = { 'system.posix_acl_access': acl(7) };
      await stack(
        driver,
        layer(
          file('implied/f', 'x', { uid: 1, gid: 2, mode: 0o670, xattrs }),
          symlink('l', 'x', { uid: 3 }),
          fifo('p', { gid: 4, mode: 0o670, xattrs }),
          directory('d/', { uid: 5, mode: 0o770, xattrs: { 'system.posix_acl_default': acl(8) } }),
        ),
      );
      const tree = (await shown(driver, id('l0'))).map((line) => line.split(' '));
      assert.deepEqual(
        tree.map(([path, , , owner]) => `${path} ${owner}`),
        [
          '"/" 100000:100000',
          '"/d" 100005:100000',
          '"/implied" 100000:100000',
          '"/implied/f" 100001:100002',
          '"/l" 100003:100000',
          '"/p" 100000:100004',
        ],
      );
      for (const [i, user] of [
        [3, 100_007],
        [5, 100_007],
        [1, 100_008],
      ] as const) {
        assert.ok(
          tree[i]?.some((part) => part.endsWith(acl(user).toString('hex'))),
          tree[i]?.join(' '),
        );
      }
      await driver.create(id('bad'), { writable: false });
      const bad = layer(file('f', '', { uid: 65_536 }));
      // The machine's limit, not the archive's fault.
      await assert.rejects(driver.apply(id('bad'), pieces(bad)), (error) =>
        isStorageError(error, 'resource-exhausted'),
      );
    });
  });

  test(`apply() on ext4 reports times that it cannot hold, and a new inode may have an old number (${name})`, async (t) => {
    await withDriver(t, name, { on: 'ext4' }, async (driver) => {
      const far = { mtimeNs: 20_000_000_000_000_000_000n };
      const base = layer(file('f', 'below', far), directory('d/', far), symlink('l', 'x', far), file('lower', 'low'));
      const top = layer(
        hardlink('h', 'lower'),
        file('h', 'own'),
        file('lower', 'own too'), // the stand-in's inode is free now, and ext4 gives its number away at once
        hardlink('x/h', 'd/../f'),
        file('x', 'replaced'),
        directory('x/'),
        file('x/h', 'new'),
      );
      await driver.create(id('l0'), { writable: false });
      const { notes } = await driver.apply(id('l0'), pieces(base));
      assert.deepEqual(notes, ['modification time beyond what the filesystem holds: "f" and 2 more']);
      await driver.create(id('l1'), { writable: false, parent: id('l0') });
      await driver.apply(id('l1'), pieces(top));
      await using mounted = await driver.mount(id('l1'), { readonly: true });
      const read = (path: string): string => readFileSync(`${toText(mounted.path)}/${path}`, 'utf8');
      assert.deepEqual(['h', 'lower', 'x/h', 'f'].map(read), ['own', 'own too', 'new', 'below']);
    });
  });

  test(`apply() makes one tree, record and digest of a stream, a small file and a large one (${name})`, async (t) => {
    await withDriver(t, name, {}, async (driver, path) => {
      const small = layer(file('a/b', 'x'.repeat(70_000)), hardlink('c', 'a/b'), symlink('l', 'c'), file('l2', 'y'));
      const large = Buffer.concat([small.subarray(0, -1024), layer(file('big', Buffer.alloc(3 << 20, 'z')))]);
      for (const [size, tar] of Object.entries({ small, large })) {
        writeFileSync(`${path}/${size}.tar`, tar);
        const fd = openSync(`${path}/${size}.tar`, 'r');
        const sources = { range: { fd, offset: 0, length: tar.length }, stream: pieces(tar) };
        const trees: string[][] = [];
        for (const [how, source] of Object.entries(sources)) {
          const one = id(`${size}-${how}`);
          const record = fromText(`${path}/${size}-${how}.record`);
          await driver.create(one, { writable: false });
          const report = await driver.apply(one, source, { record });
          assert.equal(report.diffId, digestOf(tar));
          assert.equal(report.tarBytes, tar.length);
          assert.ok((await collect(driver.replay(one, record, report.diffId))).equals(tar));
          trees.push(await shown(driver, one));
        }
        assert.deepEqual(trees[1], trees[0]);
        closeSync(fd);
      }
    });
  });

  test(`apply() answers the diffSize of the layer: links once, what remains only, no whiteouts (${name})`, async (t) => {
    await withDriver(t, name, {}, async (driver) => {
      const base = layer(file('low', 'x'.repeat(100)), file('gone', 'x'));
      const tops = [
        [
          layer(
            file('a', 'x'.repeat(10)),
            hardlink('b', 'a'),
            symlink('l', 'four'),
            directory('d/'),
            device('v', 1, 3),
          ),
          14,
        ],
        [layer(whiteout('gone'), file('a', 'x'.repeat(10)), file('a', 'yy')), 2],
        [layer(symlink('l', 'four'), symlink('l', 'as')), 2],
        [layer(file('d/f', 'x'.repeat(50)), symlink('d', 'abc')), 3],
        [layer(hardlink('copy', 'low')), 100],
        [layer(file('s', 'd'.repeat(512), { sparse: [{ offset: 0, length: 512 }], sizeBytes: 9000 })), 9000],
      ] as const;
      await driver.create(id('base'), { writable: false });
      await driver.apply(id('base'), pieces(base));
      for (const [i, [top, size]] of tops.entries()) {
        const one = id(`top${i}`);
        await driver.create(one, { writable: false, parent: id('base') });
        assert.equal((await driver.apply(one, pieces(top))).sizeBytes, size, `top ${i}`);
        await driver.seal([one]);
        // Without an upper a copied-up file that was not changed is no difference, on vfs.
        if (name !== 'vfs' || size !== 100) assert.equal(await driver.diffSize(one, id('base')), size, `top ${i}`);
      }
    });
  });
}
