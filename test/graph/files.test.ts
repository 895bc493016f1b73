import assert from 'node:assert/strict';
import { readFileSync, readSync } from 'node:fs';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { zstdDecompressSync } from 'node:zlib';
import { type ByteString, fromText, toBytes } from '../../src/base/bytes.ts';
import { parseLayerId } from '../../src/driver/ids.ts';
import type { LayerFile, LayerFiles } from '../../src/graph/layer-files.ts';
import { openStorageDriver } from '../../src/graph/open-driver.ts';
import { SplitReader } from '../../src/tar/split.ts';
import type { TarEntry } from '../../src/tar/types.ts';
import { encodeEntry, paddingFor } from '../../src/tar/write.ts';
import { filesystem } from '../kit/filesystems.ts';
import { directory, file, hardlink, layer, symlink, whiteout } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';
import { fails } from '../transport/archives.ts';

// files(): a layer's own files, by the names of its archive (driver-behaviour D2).

const BYTES = '\xff\xfe' as ByteString;
const NO_TEXT: TarEntry = {
  ...{ type: 'file', name: BYTES, linkName: '' as ByteString, mode: 0o644, uid: 0, gid: 0, sizeBytes: 7 },
  ...{ mtimeNs: 0n, devMajor: 0, devMinor: 0, xattrs: new Map() },
};
const BASE = layer(file('low', 'of the layer below'), file('gone', 'gone'));
const RUNS = [
  { offset: 0, length: 512 },
  { offset: 1 << 20, length: 2 },
];
const TAR = layer(
  directory('etc/'),
  file('./etc/motd', 'hello\n'),
  hardlink('etc/same', 'etc/motd'),
  Buffer.concat([encodeEntry(NO_TEXT), Buffer.from('no text'), paddingFor(7)]),
  symlink('link', '/etc/motd'),
  symlink('out', '../../../../../../etc/passwd'),
  symlink('way', 'etc'),
  whiteout('gone'),
  file('holes', `${'a'.repeat(512)}XY`, { sparse: RUNS, sizeBytes: 2 << 20 }),
  file('large', Buffer.alloc(300_000, 'x')),
);

function read({ fd, sizeBytes }: LayerFile, offset = 0, length = sizeBytes): Buffer {
  const bytes = Buffer.alloc(length);
  assert.equal(readSync(fd, bytes, 0, length, offset), length);
  return bytes;
}

/** The tar of a split record, its contents from `files`. */
function replayed(record: Buffer, files: LayerFiles): Buffer {
  const parts: Buffer[] = [];
  const split = new SplitReader({
    onRaw: (bytes) => void parts.push(Buffer.from(bytes)),
    onFile(name, payloadBytes, extents) {
      using own = files.open(name);
      for (const { offset, length } of extents ?? [{ offset: 0, length: payloadBytes }]) {
        parts.push(read(own, offset, length));
      }
    },
    onEnd() {},
  });
  split.write(zstdDecompressSync(record));
  split.finish();
  return Buffer.concat(parts);
}

for (const name of DRIVERS) {
  test(`files() reads a layer's own files by their names in its archive, and with the record gives it back (${name})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 64);
    await using driver = await openStorageDriver({ root: disk.path, driver: name, run: `${disk.path}/run` });
    const [below, top] = ['below', 'top'].map((id) => parseLayerId(fromText(id))) as [never, never];
    await driver.create(below, { writable: false });
    await driver.apply(below, Readable.from([BASE]));
    await driver.create(top, { writable: false, parent: below });
    const record = fromText(`${disk.path}/record`);
    await driver.apply(top, Readable.from([TAR]), { record });

    using files = await driver.files(top);
    const content = (path: string): string => {
      using own = files.open(path as ByteString);
      return read(own).toString();
    };
    for (const path of ['etc/motd', './etc/motd', '/etc/motd', 'etc/same', 'way/motd', '../../etc/motd']) {
      assert.equal(content(path), 'hello\n', path);
    }
    assert.equal(content(BYTES), 'no text');
    for (const path of ['absent', 'etc/motd/below', 'etc', 'link', 'out', 'gone', '']) {
      assert.throws(
        () => content(path),
        fails('not-found', /^Cannot read ".*" of layer "top": it is (not there|no ord)/),
      );
    }
    assert.deepEqual(replayed(readFileSync(toBytes(record)), files), TAR);
    await assert.rejects(driver.files(parseLayerId(fromText('nobody'))), fails('not-found'));
  });
}
