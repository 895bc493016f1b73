import assert from 'node:assert/strict';
import {
  appendFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { readdir } from 'node:fs/promises';
import { gzipSync } from 'node:zlib';
import { fromText, toText } from '../../src/base/bytes.ts';
import { digestOf, hexOf } from '../../src/base/digest.ts';
import { isStorageError, type Store } from '../../src/index.ts';
import { AT_FDCWD, mknodat, S_IFIFO } from '../../src/linux/inode.ts';
import { readTar } from '../../src/tar/read.ts';
import { directory, file, hardlink, layer, opaque, symlink, whiteout } from '../kit/layer-builder.ts';
import { END, header, padded, pax } from '../tar/craft.ts';
import { collect } from '../transport/archives.ts';
import { onBothDrivers } from './both.ts';

// Invariant 4: what came in goes out byte for byte, from the unpacked files or from a kept tar; never anything else.

const test = onBothDrivers();

const sparse = file('sparse', 'x'.repeat(1024), { sparse: [{ offset: 8192, length: 1024 }], sizeBytes: 1 << 20 });

/** Layers that are given back from their files. */
const REPLAYED: Readonly<Record<string, Buffer>> = {
  plain: layer(directory('./'), file('a', 'x'.repeat(100_000)), file('empty'), symlink('l', 'a'), hardlink('h', 'a')),
  'no end': Buffer.from(file('a', 'x')),
  'no padding': Buffer.from(file('a', 'x').subarray(0, 513)),
  nothing: Buffer.alloc(0),
  junk: Buffer.concat([file('a', 'x'), END, Buffer.from('whatever comes'), file('b', 'hidden')]),
  'odd header': layer(header({ name: './/a/../b', size: 3, mode: '  644 ', magic: '' }), padded('abc')),
  'padding that is not zero': Buffer.concat([file('a', 'x').subarray(0, 513), Buffer.alloc(511, 'p'), END]),
  'unknown records': layer(
    pax({ comment: 'c', 'VENDOR.key': 'v', atime: '1' }),
    header({ name: 'a', size: 1 }),
    padded('x'),
  ),
  sparse: layer(sparse, file('after', 'y')),
  'through links': layer(symlink('l', 'd/e'), file('l/f', 'content'), file('d/g', 'more')),
  'a label and a dump': layer(
    header({ name: 'v', type: 'V', size: 3 }),
    padded('abc'),
    header({ name: 'd', type: 'D', size: 2 }),
    padded('Yf'),
  ),
  'payload sizes of others': layer(header({ name: 'd', type: '5', size: 512 })),
  'symlinks and empty ones twice': layer(
    symlink('l', 'a'),
    symlink('l', 'b'),
    directory('d/'),
    directory('d/', { mode: 0o700 }),
  ),
};

/** Layers whose payloads are not all in files of the tree; why. */
const KEPT: Readonly<Record<string, readonly [Buffer, RegExp]>> = {
  duplicate: [layer(file('a', 'one'), file('a', 'two')), /a later entry replaces "a"/],
  'directory gone': [layer(file('d/a', 'one'), file('d', 'two')), /a later entry replaces "d"/],
  'whiteout with content': [layer(file('.wh.a', 'x')), /the content of "\.wh\.a" is in no file/],
  bookkeeping: [layer(file('.wh..wh.aufs', 'x')), /the content of "\.wh\.\.wh\.aufs"/],
  'opaque marker with content': [layer(file('d/.wh..wh..opq', 'x')), /is in no file/],
  'link written again': [layer(file('a', 'x'), hardlink('b', 'a'), file('a', 'y')), /a later entry replaces "a"/],
};

async function savedLayers(store: Store, id: string, format: 'oci' | 'docker'): Promise<Map<string, Buffer>> {
  const members = new Map<string, Buffer>();
  for await (const { entry, payload } of readTar(store.images.save([id], { format }))) {
    members.set(toText(entry.name), await collect(payload));
  }
  return members;
}

for (const format of ['oci', 'docker'] as const) {
  test(`save() gives every layer back byte for byte (invariant 4, ${format})`, async (both) => {
    const all = [...Object.values(REPLAYED), ...Object.values(KEPT).map(([tar]) => tar)];
    await both.each(all, async (store, image) => {
      const members = await savedLayers(store, image.id, format);
      for (const tar of all) {
        const hex = hexOf(digestOf(tar));
        const out = members.get(format === 'oci' ? `blobs/sha256/${hex}` : `${hex}.tar`);
        assert.ok(out?.equals(tar), `${store.driver.name}: layer ${all.indexOf(tar)} is another`);
      }
      assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    });
  });
}

test('stored() says of each layer whether it is replayed or kept, and why', async (both) => {
  const names = [...Object.keys(REPLAYED), ...Object.keys(KEPT)];
  const all = [...Object.values(REPLAYED), ...Object.values(KEPT).map(([tar]) => tar)];
  await both.each(all, async (store, image) => {
    for (const [i, { exact }] of (await store.layers.stored(image.id)).entries()) {
      const why = KEPT[names[i] as string]?.[1];
      assert.equal(exact.holds, why === undefined, `${names[i]}: ${exact.because}`);
      if (why !== undefined) assert.match(exact.because, why);
    }
  });
});

test('save() keeps the holes of sparse files on disk and their map in the tar', async (both) => {
  await both.each([layer(sparse)], async (store, image) => {
    await using view = await store.layers.view(image.id);
    const stat = statSync(`${toText(view.path)}/sparse`);
    assert.equal(stat.size, 1 << 20);
    assert.ok(stat.blocks * 512 <= 16_384, `${stat.blocks} blocks`);
    const [stored] = await store.layers.stored(image.id);
    assert.equal(stored?.sizeBytes, 1 << 20);
  });
});

test('save() takes compressed layers apart and gives the tar, kept ones too', async (both) => {
  const tars = [REPLAYED['plain'], KEPT['duplicate']?.[0]] as Buffer[];
  const packed = tars.map((tar) => ({ tar, blob: gzipSync(tar) }));
  await both.each(packed, async (store, image) => {
    const members = await savedLayers(store, image.id, 'oci');
    for (const tar of tars) assert.ok(members.get(`blobs/sha256/${hexOf(digestOf(tar))}`)?.equals(tar));
  });
});

test('save() and check() fail closed when a file of a layer was changed behind the store', async (both) => {
  const tar = layer(file('d/a', 'x'.repeat(5000)), file('b', 'y'), hardlink('c', 'b'));
  const changes: Record<string, (root: string) => void> = {
    content: (root) => {
      const { atime, mtime } = statSync(`${root}/d/a`);
      writeFileSync(`${root}/d/a`, 'z', { flag: 'r+' });
      utimesSync(`${root}/d/a`, atime, mtime);
    },
    shorter: (root) => truncateSync(`${root}/d/a`, 4999),
    gone: (root) => rmSync(`${root}/b`),
    directory: (root) => renameSync(`${root}/d`, `${root}/e`),
    symlink: (root) => {
      rmSync(`${root}/b`);
      symlinkSync(`${both.canary}/file`, `${root}/b`);
    },
    'symlink on the way': (root) => {
      renameSync(`${root}/d`, `${root}/e`);
      symlinkSync('/nowhere', `${root}/d`);
    },
    longer: (root) => appendFileSync(`${root}/b`, 'y'),
    fifo: (root) => {
      rmSync(`${root}/b`);
      mknodat(AT_FDCWD, fromText(`${root}/b`), S_IFIFO | 0o600, 0, 0);
    },
  };
  for (const [how, change] of Object.entries(changes)) {
    await both.each([tar], async (store, image) => {
      const root = await treeOf(store);
      change(root);
      const text = how === 'content' ? /files were changed/ : /was changed/;
      await assert.rejects(
        async () => {
          for await (const _ of store.images.save([image.id])) {
            // the error comes before the end
          }
        },
        (error) => isStorageError(error, 'corrupt') && text.test(error.message),
        `${store.driver.name}: ${how}`,
      );
      const faults = await store.upkeep.check({ deep: true });
      assert.ok(faults.length > 0, `${store.driver.name}: ${how}`);
    });
  }
});

/** The one layer's own directory. */
async function treeOf(store: Store): Promise<string> {
  const { home } = store.driver;
  const dir = store.driver.name === 'vfs' ? `${home}/dir` : home;
  const [id] = (await readdir(dir)).filter((name) => /^[0-9a-f]{64}$/.test(name));
  assert.ok(id !== undefined);
  return store.driver.name === 'vfs' ? `${dir}/${id}` : `${dir}/${id}/diff`;
}

test('save() replays a layer whose names other layers replaced or deleted', async (both) => {
  const base = layer(file('a', 'one'), file('d/b', 'two'), file('e/c', 'three'));
  const top = layer(whiteout('a'), file('d', 'now a file'), opaque('e'), file('e/n', 'new'));
  await both.each([base, top, base], async (store, image) => {
    const members = await savedLayers(store, image.id, 'oci');
    for (const tar of [base, top]) assert.ok(members.get(`blobs/sha256/${hexOf(digestOf(tar))}`)?.equals(tar));
  });
});
