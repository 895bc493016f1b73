import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { toText } from '../../src/base/bytes.ts';
import { CAP_NET_RAW } from '../kit/edits.ts';
import { device, directory, fifo, file, hardlink, layer, piece, symlink } from '../kit/layer-builder.ts';
import { END, extended, header, padded, pax } from '../tar/craft.ts';
import { OCI } from '../transport/archives.ts';
import { onBothDrivers } from './both.ts';

// security-cases, "One reading for each": Sizes, Types, Owners, times, devices, End, Compression.

const test = onBothDrivers();

/** What every header here has where it says nothing else. */
const plain = { mode: '0000644', uid: '0000000', gid: '0000000', mtime: '00000000000', size: 0 } as const;

test('Sizes: directories, symlinks, devices and fifos have no payload, whatever the field says', async (both) => {
  const types = { '5': 'x/ 644', '2': 'x -> t', '3': 'x device 1,3', '4': 'x block-device 1,3', '6': 'x fifo' };
  for (const [type, line] of Object.entries(types)) {
    const link = type === '2' ? { link: 't' } : {};
    const one = header({ ...plain, name: 'x', type, size: 4096, major: '1', minor: '3', ...link });
    assert.deepEqual(await both.tree(layer(one, file('y', 'next'))), ['./', line, 'y "next"'], type);
  }
});

test('Sizes: a PAX size belongs to the next ordinary entry, never to x, g, L or K headers', async (both) => {
  const lie = header({ ...plain, name: 'f', size: 0 });
  const inner = file('smuggled', 'no');
  const tree = await both.tree(
    layer(pax({ size: String(inner.length) }), extended('L', 'long-name\0'), lie, inner, file('after')),
  );
  assert.deepEqual(tree, ['./', 'after ""', `long-name (${inner.length})`]);
  await both.refuses(/global header sets the size/, layer(pax({ size: '512' }, 'g'), lie));
  await both.refuses(/global header sets the size/, layer(pax({ 'GNU.sparse.size': '512' }, 'g'), lie));
});

test('Sizes: any number but octal or base-256 that is not negative is refused', async (both) => {
  for (const size of ['-0000000001', '0x10', '8', '\0' + '00000000012', '1e3', '+1', '\xff'.repeat(12)]) {
    await both.refuses(/size|number|octal/, layer(header({ ...plain, name: 'f', size })));
  }
  const base256 = `\x80${'\0'.repeat(10)}\x03`;
  for (const size of ['3', '  3', '00000000003', '3 ', '3\0', base256]) {
    assert.deepEqual(await both.tree(layer(header({ ...plain, name: 'f', size }), padded('abc'))), ['./', 'f "abc"']);
  }
  for (const size of ['-1', '1.5', '99999999999999999999', 'x', ' 1']) {
    await both.refuses(/size/, layer(pax({ size }), header({ ...plain, name: 'f' })));
  }
});

test('Types: NUL, 0 and 7 are files, NUL with a trailing slash a directory', async (both) => {
  for (const type of ['\0', '0', '7']) {
    assert.deepEqual(await both.tree(layer(header({ ...plain, name: 'x', type, size: 2 }), padded('ab'))), [
      './',
      'x "ab"',
    ]);
  }
  assert.deepEqual(await both.tree(layer(header({ ...plain, name: 'x/', type: '\0', magic: '' }))), ['./', 'x/ 644']);
});

test('Types: GNU V is skipped, D is a directory whose payload is skipped, M and unknown letters are refused', async (both) => {
  const { tree, notes } = await both.loaded(
    layer(
      header({ ...plain, name: 'label', type: 'V', size: 3 }),
      padded('abc'),
      header({ ...plain, name: 'dump', type: 'D', size: 5, mode: '755' }),
      padded('Yfile'),
      file('f'),
    ),
  );
  assert.deepEqual(tree, ['./', 'dump/', 'f ""']);
  assert.deepEqual(notes, ['layer 1: left out, an archive label or the like: "label"']);
  for (const type of ['M', 'N', 'Z', '8', 'A', 'X', ' ', '\xff']) {
    await both.refuses(/volume|unknown/, layer(header({ ...plain, name: 'x', type })));
  }
});

test('Types: sparse files in the PAX dialects and the old one keep their holes', async (both) => {
  const data = 'd'.repeat(512);
  const size = 1 << 20;
  const name = 's';
  const two = { offset: 4096, length: 512 };
  const v10 = file(name, data, { sparse: [two], sizeBytes: size });
  const v01 = [
    pax({
      'GNU.sparse.name': name,
      'GNU.sparse.size': String(size),
      'GNU.sparse.numblocks': '1',
      'GNU.sparse.map': '4096,512',
    }),
    header({ ...plain, name: 'GNUSparseFile.1/s', size: 512 }),
    padded(data),
  ];
  const v00 = [
    pax({
      'GNU.sparse.size': String(size),
      'GNU.sparse.numblocks': '1',
      'GNU.sparse.numbytes': '512',
      'GNU.sparse.offset': '4096',
    }),
    header({ ...plain, name, size: 512 }),
    padded(data),
  ];
  // From byte 386: offset and length of four runs, whether more follow, the real size (tar.h of GNU tar).
  const octal = (n: number): string => `${n.toString(8).padStart(11, '0')}\0`;
  const map = `${'\0'.repeat(41)}${octal(4096)}${octal(512)}${'\0'.repeat(73)}${octal(size)}`;
  const old = [header({ ...plain, name, type: 'S', size: 512, magic: 'ustar  ', rest: map }), padded(data)];
  for (const pieces of [[v10], v01, v00b(v00), old]) {
    await both.each([layer(...pieces)], async (store, image) => {
      await using view = await store.layers.view(image.id);
      const stat = statSync(`${toText(view.path)}/${name}`);
      assert.equal(stat.size, size);
      assert.ok(stat.blocks * 512 <= 8192, `${stat.blocks} blocks`);
      const [stored] = await store.layers.stored(image.id);
      assert.equal(stored?.exact.holds, true);
    });
  }
  await both.refuses(
    /sparse/,
    layer(header({ ...plain, name, type: 'S', size: 512, magic: 'ustar\x0000' }), padded(data)),
  );
});

/** offset comes before numbytes, which sorted keywords would not give. */
function v00b(pieces: readonly Buffer[]): readonly Buffer[] {
  const record = (text: string): string => {
    const bare = text.length + 2;
    const length = bare + String(bare + String(bare).length).length;
    return `${length} ${text}\n`;
  };
  const records = [
    'GNU.sparse.size=1048576',
    'GNU.sparse.numblocks=1',
    'GNU.sparse.offset=4096',
    'GNU.sparse.numbytes=512',
  ];
  return [extended('x', records.map(record).join('')), ...pieces.slice(1)];
}

test('Types: device 0:0 is not made, fifos and devices are', async (both) => {
  const { tree, notes } = await both.loaded(
    layer(
      device('d0', 0, 0),
      device('d1', 1, 3, { mode: 0o600 }),
      fifo('p', { mode: 0o600 }),
      piece('block-device', 'b0'),
    ),
  );
  assert.deepEqual(tree, ['./', 'd1 device 1,3 600', 'p fifo 600']);
  assert.deepEqual(notes, ['layer 1: left out, a device 0:0 would be a deletion: "d0" and 1 more']);
});

test('Owners: ids reach 2^32 - 2; larger, negative or no numbers are refused, none wraps to 0', async (both) => {
  const top = 0xffff_fffe;
  assert.deepEqual(await both.tree(layer(file('f', '', { uid: top, gid: top - 1 }))), ['./', `f "" ${top}:${top - 1}`]);
  const beyond = ['4294967295', '4294967296', '18446744073709551616', '-1', '', 'root', '0x0'];
  for (const id of beyond.filter((text) => text !== '')) {
    await both.refuses(/uid/, layer(pax({ uid: id }), header({ ...plain, name: 'f' })));
    await both.refuses(/gid/, layer(pax({ gid: id }), header({ ...plain, name: 'f' })));
  }
  const huge = `\x80\0\0\x01\0\0\0\0`; // 2^32 in base-256
  await both.refuses(/uid/, layer(header({ ...plain, name: 'f', uid: huge })));
  await both.refuses(/uid/, layer(header({ ...plain, name: 'f', uid: '\xff'.repeat(8) })));
});

test('Owners: of every type; set-id bits and capabilities survive the change of owner', async (both) => {
  const own = { uid: 11, gid: 12 };
  const tree = await both.tree(
    layer(
      directory('d/', { ...own, mode: 0o3775 }),
      file('f', '', { ...own, mode: 0o6755, xattrs: { 'security.capability': Buffer.from(CAP_NET_RAW, 'latin1') } }),
      symlink('l', 't', own),
      fifo('p', own),
      device('v', 1, 3, own),
    ),
  );
  const [, d, f, ...rest] = tree;
  assert.equal(d, 'd/ 3775 11:12');
  assert.match(f ?? '', /^f "" 6755 11:12 security\.capability=/);
  assert.deepEqual(rest, ['l -> t 11:12', 'p fifo 11:12', 'v device 1,3 11:12']);
});

test('Devices: majors to 12 bits, minors to 20; more is refused', async (both) => {
  const one = (major: string, minor: string): Buffer => header({ ...plain, name: 'x', type: '3', major, minor });
  assert.deepEqual(await both.tree(layer(one('7777', '3777777'))), ['./', 'x device 4095,1048575']);
  await both.refuses(/device/, layer(one('10000', '0')));
  await both.refuses(/device/, layer(one('0', '4000000')));
});

test('Times: any fraction, cut to ns downwards; what the filesystem cannot hold is reported', async (both) => {
  const at = async (mtime: string): Promise<string[]> =>
    both.tree(layer(pax({ mtime }), header({ ...plain, name: 'f' })));
  assert.deepEqual(await at('1.9999999999'), ['./', 'f "" @1999999999']);
  assert.deepEqual(await at('-1.0000000001'), ['./', 'f "" @-1000000001']);
  assert.deepEqual(await at('0.1'), ['./', 'f "" @100000000']);
  assert.deepEqual(await at('-0.5'), ['./', 'f "" @-500000000']);
  for (const mtime of ['x', '1e9', '', ' 1', '9223372036854775808', '1.2.3', '--1', '0x1']) {
    if (mtime !== '') await both.refuses(/mtime/, layer(pax({ mtime }), header({ ...plain, name: 'f' })));
  }
  // tmpfs holds all of 64 bits; ext4 does not: ../graph and the report is the same code.
  const far = '9223372036854775807';
  assert.equal((await both.tree(layer(pax({ mtime: far }), header({ ...plain, name: 'f' })))).length, 2);
});

test('Times: of every type, directories too, whatever is done in them later', async (both) => {
  const t = (n: number) => ({ mtimeNs: BigInt(n) * 1_000_000_007n });
  const tree = await both.tree(
    layer(
      directory('d/', t(1)),
      file('d/f', '', t(2)),
      symlink('d/l', 'x', t(3)),
      fifo('d/p', t(4)),
      device('d/v', 1, 3, t(5)),
      directory('d/e/', t(6)),
      file('d/e/g'),
      hardlink('d/h', 'd/f', t(7)),
    ),
    layer(file('d/e/.wh.g'), file('d/.wh.none')),
  );
  assert.deepEqual(tree, [
    './',
    'd/ @1000000007',
    'd/e/ @6000000042',
    'd/f "" @2000000014',
    'd/h = d/f',
    'd/l -> x @3000000021',
    'd/p fifo @4000000028',
    'd/v device 1,3 @5000000035',
  ]);
});

test('End: two zero blocks end the archive, what follows is hashed and kept, never read', async (both) => {
  const junk = [Buffer.alloc(512, 'x'), file('hidden'), Buffer.from('odd')];
  const tar = Buffer.concat([file('f', 'x'), END, ...junk]);
  assert.deepEqual(await both.tree(tar), ['./', 'f "x"']);
});

test('End: at a block border, and a last payload without padding, are accepted', async (both) => {
  assert.deepEqual(await both.tree(Buffer.from(file('f', 'x'))), ['./', 'f "x"']);
  assert.deepEqual(await both.tree(Buffer.from(file('f', 'x').subarray(0, 513))), ['./', 'f "x"']);
  assert.deepEqual(await both.tree(Buffer.concat([file('f'), Buffer.alloc(512)])), ['./', 'f ""']);
  assert.deepEqual(await both.tree(Buffer.alloc(0)), ['./']);
  assert.deepEqual(await both.tree(Buffer.concat([file('f'), END, END.subarray(0, 100)])), ['./', 'f ""']);
});

test('End: one zero block and then an entry, or an end inside an entry, is refused', async (both) => {
  await both.refuses(/zeros/, Buffer.concat([file('f'), Buffer.alloc(512), file('g'), END]));
  const whole = file('f', 'x'.repeat(2000));
  for (const at of [100, 511, 513, 1024, 2500]) {
    // Less than one header is no archive at all.
    await both.refuses(at < 512 ? /cut off|no tar archive/ : /cut off|ends/, Buffer.from(whole.subarray(0, at)));
  }
  await both.refuses(/ends between/, Buffer.concat([pax({ path: 'x' }), END]));
  await both.refuses(/ends between/, Buffer.from(pax({ path: 'x' })));
});

test('Compression: recognised by content; a media type that says otherwise does not matter', async (both) => {
  const tar = layer(file('f', 'content'));
  const types = ['tar', 'tar+gzip', 'tar+zstd'].map((type) => `${OCI}layer.v1.${type}`);
  for (const blob of [tar, gzipSync(tar), zstdCompressSync(tar)]) {
    for (const mediaType of types) assert.deepEqual(await both.tree({ tar, blob, mediaType }), ['./', 'f "content"']);
  }
});

test('Compression: members and frames follow each other, padding is zeros, everything is checked', async (both) => {
  const tar = layer(file('f', 'content'.repeat(100)), file('g'));
  const [a, b] = [tar.subarray(0, 700), tar.subarray(700)];
  const skippable = Buffer.from('\x50\x2a\x4d\x18\x03\0\0\0abc', 'latin1');
  const good = [
    Buffer.concat([gzipSync(a), gzipSync(b)]),
    Buffer.concat([gzipSync(tar), Buffer.alloc(700)]),
    Buffer.concat([zstdCompressSync(a), skippable, zstdCompressSync(b), skippable]),
  ];
  for (const blob of good) assert.deepEqual(await both.tree({ tar, blob }), ['./', 'f (700)', 'g ""']);
  const gzip = gzipSync(tar);
  const flipped = Buffer.from(gzip);
  flipped[gzip.length - 6] = (flipped[gzip.length - 6] as number) ^ 1;
  const bad = [
    Buffer.concat([gzip, Buffer.from('garbage')]),
    gzip.subarray(0, -1),
    gzip.subarray(0, gzip.length >> 1),
    flipped,
    zstdCompressSync(tar).subarray(0, -1),
    Buffer.concat([zstdCompressSync(tar), Buffer.from('garbage')]),
  ];
  for (const blob of bad) await both.refuses(/./, { tar, blob });
});

test('Compression: a bomb beyond 1 GiB and 100 times its size is refused soon', async (both) => {
  // Zeros after the end: they are hashed, and fill no disk.
  const zeros = gzipSync(Buffer.alloc(1 << 26), { level: 1 });
  const blob = Buffer.concat([gzipSync(layer(file('f'))), ...Array.from({ length: 20 }, () => zeros)]);
  await both.refuses(/beyond 100 to 1/, { tar: Buffer.from('no digest is reached'), blob });
});
