import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { lstatSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { encodeEntry, paddingFor, type TarEntry, trailer } from '../../src/tar/index.ts';
import { writeEntry } from '../../src/tar/write.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { archive, asRead, type Written, written } from './arbitraries.ts';
import { expand, lex } from './collect.ts';

const b = (text: string): ByteString => fromText(text);
const FILE: TarEntry = {
  type: 'file',
  name: b('file'),
  linkName: b(''),
  mode: 0o644,
  uid: 0,
  gid: 0,
  sizeBytes: 0,
  mtimeNs: 1_700_000_000_000_000_000n,
  devMajor: 0,
  devMinor: 0,
  xattrs: new Map(),
};

test('encodeEntry() and TarLexer: read after write is the identity', () => {
  fc.assert(
    fc.property(
      fc.array(written, { maxLength: 6 }),
      fc.array(fc.integer({ min: 1, max: 2000 }), { minLength: 1, maxLength: 5 }),
      (entries, sizes) => {
        const tar = archive(entries);
        const { members, bytes } = lex(tar, sizes);
        assert.deepEqual(
          members.map(({ entry, payload }) => ({ entry, payload })),
          entries.map(({ entry, payload }) => ({ entry: asRead(entry), payload })),
        );
        assert.ok(bytes.equals(tar));
      },
    ),
    { numRuns: 300 },
  );
});

test('writeEntry() writes what encodeEntry() makes, where there is room for it, and nothing beyond', () => {
  const bounds = {
    // What is plain, and what is just so no more.
    mtimeNs: fc
      .oneof(fc.bigInt(-2n, 8n ** 11n), fc.constantFrom(0n, 8n ** 11n - 1n))
      .chain((seconds) =>
        fc.constantFrom(0n, 1n, 120_000_000n, 999_999_999n).map((ns) => seconds * 1_000_000_000n + ns),
      ),
    id: fc.oneof(fc.nat(70_000), fc.constantFrom(8 ** 7 - 1, 8 ** 7, 0xffff_fffe)),
    length: fc.oneof(fc.integer({ min: 1, max: 30 }), fc.integer({ min: 95, max: 110 })),
  };
  const plain = fc
    .record({ mtimeNs: bounds.mtimeNs, uid: bounds.id, gid: bounds.id, length: bounds.length, target: bounds.length })
    .chain(({ length, target, ...more }) =>
      fc.constantFrom(
        { ...FILE, ...more, name: b('n'.repeat(length)), sizeBytes: length > 100 ? 8 ** 11 : target },
        { ...FILE, ...more, type: 'directory' as const, name: b(`${'d'.repeat(length - 1)}/`) },
        { ...FILE, ...more, type: 'symlink' as const, linkName: b('l'.repeat(target)) },
      ),
    );
  const entries: fc.Arbitrary<TarEntry> = fc.oneof(
    plain,
    written.map(({ entry }) => entry),
  );
  fc.assert(
    fc.property(entries, fc.nat(2000), fc.integer({ min: -600, max: 10 }), (entry, at, less) => {
      const expected = encodeEntry(entry);
      const end = Math.max(at, at + expected.length + less);
      const room = Buffer.alloc(end + 700, 0xaa);
      const ended = writeEntry(entry, room, at, end);
      assert.equal(ended, less < 0 ? undefined : at + expected.length);
      assert.ok(ended === undefined || room.subarray(at, ended).equals(expected));
      assert.ok(room.every((byte, i) => byte === 0xaa || (i >= at && i < (ended ?? at))));
    }),
    { numRuns: 1000 },
  );
  assert.throws(() => writeEntry({ ...FILE, name: b('a\0') }, Buffer.alloc(4096), 0, 4096), /NUL/);
});

test('encodeEntry() makes equal bytes of equal entries, whatever the order of their attributes', () => {
  const pairs = ['user.b', 'user.a', 'user.c'].map((key) => [b(key), Buffer.from(key)] as const);
  const one = encodeEntry({ ...FILE, xattrs: new Map(pairs) });
  const other = encodeEntry({ ...FILE, xattrs: new Map(pairs.toReversed()) });
  assert.ok(one.equals(other));
});

test('encodeEntry() writes one plain ustar block where that says everything', () => {
  const fits: readonly Partial<TarEntry>[] = [
    {},
    { name: b('n'.repeat(100)) },
    { name: b(`${'p'.repeat(155)}/${'n'.repeat(100)}`) },
    { name: b('grüße') },
    { type: 'directory', name: b(`${'p/'.repeat(70)}d`) },
    { uid: 0o7777777, gid: 0o7777777, sizeBytes: 8 ** 11 - 1, mtimeNs: (8n ** 11n - 1n) * 1_000_000_000n },
    { type: 'symlink', linkName: b('l'.repeat(100)) },
    { type: 'block-device', devMajor: 0xfff, devMinor: 0xfffff },
  ];
  for (const change of fits) {
    const block = encodeEntry({ ...FILE, ...change });
    assert.equal(
      block.length,
      512,
      JSON.stringify(change, (_, v) => (typeof v === 'bigint' ? String(v) : v)),
    );
    assert.equal(block.toString('latin1', 257, 265), 'ustar\x0000');
    assert.ok(
      block.subarray(265, 329).every((byte) => byte === 0),
      'no user or group name',
    );
  }
});

test('encodeEntry() writes one PAX header, keywords sorted, where ustar is too small', () => {
  const records = (change: Partial<TarEntry>): string => {
    const bytes = encodeEntry({ ...FILE, ...change });
    assert.equal(bytes.toString('latin1', 156, 157), 'x');
    return bytes.toString('latin1', 512, 512 + Number.parseInt(bytes.toString('latin1', 124, 135), 8));
  };
  assert.equal(records({ sizeBytes: 8 ** 11 }), '19 size=8589934592\n');
  assert.equal(records({ uid: 0o10000000, gid: 0xffff_fffe }), '18 gid=4294967294\n15 uid=2097152\n');
  assert.equal(records({ mtimeNs: -1n }), '22 mtime=-0.000000001\n');
  assert.equal(records({ mtimeNs: -1_500_000_000n }), '14 mtime=-1.5\n');
  assert.equal(records({ mtimeNs: 8n ** 11n * 1_000_000_000n }), '20 mtime=8589934592\n');
  const long = `/${'n'.repeat(100)}`;
  assert.equal(records({ name: b(long), uid: 0o10000000 }), `111 path=${long}\n15 uid=2097152\n`);
  assert.equal(records({ type: 'symlink', linkName: b(long) }), `115 linkpath=${long}\n`);
  assert.equal(records({ xattrs: new Map([[b('user.a=%'), Buffer.from('v')]]) }), '31 SCHILY.xattr.user.a%3D%25=v\n');
});

test('encodeEntry() refuses what cannot be read back, as invalid-argument', () => {
  const bad: readonly Partial<TarEntry>[] = [
    { type: 'skipped' },
    { name: b('') },
    { name: b('a\0b') },
    { linkName: b('a\0b') },
    { mode: 0o10000 },
    { uid: 0xffff_ffff },
    { gid: -1 },
    { devMajor: 0x1000 },
    { devMinor: 0x100000 },
    { sizeBytes: 1.5 },
    { sizeBytes: 2 ** 53 },
    { type: 'directory', sizeBytes: 1 },
    { type: 'fifo', sparse: [] },
    { xattrs: new Map([[b(''), Buffer.alloc(0)]]) },
    { sizeBytes: 10, sparse: [{ offset: 5, length: 6 }] },
    { sizeBytes: 10, sparse: [{ offset: 5, length: 0 }] },
    {
      sizeBytes: 1000,
      sparse: [
        { offset: 0, length: 511 },
        { offset: 600, length: 1 },
      ],
    },
    {
      sizeBytes: 1000,
      sparse: [
        { offset: 5, length: 512 },
        { offset: 6, length: 1 },
      ],
    },
  ];
  for (const change of bad) {
    assert.throws(
      () => encodeEntry({ ...FILE, ...change }),
      (error) => isStorageError(error, 'invalid-argument'),
    );
  }
});

test('paddingFor() fills the last block', () => {
  for (const [size, padding] of [
    [0, 0],
    [1, 511],
    [511, 1],
    [512, 0],
    [2 ** 40 + 1, 511],
  ] as const) {
    assert.equal(paddingFor(size).length, padding);
  }
  assert.deepEqual(trailer(), Buffer.alloc(1024));
});

test('encodeEntry() is understood by GNU tar: names, links, ns times, attributes, sparse files', async (t) => {
  if (!need(t, 'tar')) return;
  await using dir = await scratch('tar');
  const long = 'long-directory/'.repeat(20);
  const value = Buffer.from([0, 10, 0xff, 0x3d]);
  const runs = [
    { offset: 4096, length: 1024 },
    { offset: 200_000, length: 700 },
  ];
  const members: Written[] = [
    { entry: { ...FILE, type: 'directory', name: b('dir'), mode: 0o1777 }, payload: Buffer.alloc(0) },
    { entry: { ...FILE, name: b('dir/grüße\n'), sizeBytes: 5 }, payload: Buffer.from('hello') },
    { entry: { ...FILE, name: 'dir/\xff' as ByteString }, payload: Buffer.alloc(0) },
    { entry: { ...FILE, type: 'hardlink', name: b('hard'), linkName: b('dir/grüße\n') }, payload: Buffer.alloc(0) },
    { entry: { ...FILE, name: b(`${long}${'n'.repeat(150)}`), sizeBytes: 1 }, payload: Buffer.from('x') },
    { entry: { ...FILE, type: 'symlink', name: b('far'), linkName: b(`${long}x`) }, payload: Buffer.alloc(0) },
    { entry: { ...FILE, name: b('fine'), mtimeNs: 1_700_000_000_123_456_789n }, payload: Buffer.alloc(0) },
    { entry: { ...FILE, name: b('old'), mtimeNs: -1_500_000_001n }, payload: Buffer.alloc(0) },
    { entry: { ...FILE, name: b('tagged'), xattrs: new Map([[b('user.a=%'), value]]) }, payload: Buffer.alloc(0) },
    { entry: { ...FILE, name: b('holes'), sizeBytes: 300_000, sparse: runs }, payload: Buffer.alloc(1724, 'data') },
    { entry: { ...FILE, name: b('hole'), sizeBytes: 70_000, sparse: [] }, payload: Buffer.alloc(0) },
    {
      entry: { ...FILE, name: b('full'), sizeBytes: 3, sparse: [{ offset: 0, length: 3 }] },
      payload: Buffer.from('abc'),
    },
  ];
  const tar = archive(members);
  const path = join(dir.path, 'a.tar');
  writeFileSync(path, tar);
  const listing = execFileSync('tar', ['--numeric-owner', '--full-time', '-tvf', path], { encoding: 'latin1' });
  assert.equal(listing.trimEnd().split('\n').length, members.length);
  // Names that another archive unpacks must come out as ours; owners are the test's own where it is not root.
  execFileSync('tar', ['-xf', path, '-C', dir.path, '--xattrs', '--xattrs-include=*', '--no-same-owner', '-p']);
  for (const { entry, payload } of members) {
    const at = Buffer.concat([Buffer.from(`${dir.path}/`), Buffer.from(entry.name, 'latin1')]);
    const stat = lstatSync(at, { bigint: true });
    if (entry.type === 'symlink') assert.equal(readlinkSync(at, 'latin1'), entry.linkName);
    else {
      assert.equal(stat.mtimeNs, entry.mtimeNs, entry.name);
      assert.equal(Number(stat.mode & 0o7777n), entry.mode);
    }
    if (entry.type === 'file') {
      assert.ok(readFileSync(at).equals(expand({ entry, payload, ended: true })), entry.name);
    }
    if (entry.type === 'hardlink') {
      assert.equal(stat.ino, lstatSync(join(dir.path, 'dir/grüße\n'), { bigint: true }).ino);
    }
  }
  assert.ok(lstatSync(join(dir.path, 'hole')).blocks < 70_000 / 512, 'the hole was filled');
  if (!need(t, 'getfattr')) return;
  const attribute = execFileSync('getfattr', ['-n', 'user.a=%', '-e', 'hex', join(dir.path, 'tagged')], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  assert.match(attribute, /=0x000aff3d\n/);
});

for (const program of ['tar', 'bsdtar', 'python3']) {
  test(`encodeEntry() of any entries is listed by ${program}`, async (t) => {
    if (!need(t, program)) return;
    await using dir = await scratch('tar');
    const path = join(dir.path, 'a.tar');
    // What these tools cannot hold or strip is left to the law above: times beyond a C time_t, doubtful names.
    const entries = fc
      .sample(written, { numRuns: 60, seed: 7 })
      .filter(({ entry }) => entry.mtimeNs > -(2n ** 61n) && entry.mtimeNs < 2n ** 61n)
      .map(({ entry, payload }, i) => ({
        entry: {
          ...entry,
          name: `m${i}/${'n'.repeat(entry.name.length)}` as ByteString,
          linkName: 'l'.repeat(entry.linkName.length) as ByteString,
          xattrs: new Map(),
        },
        payload,
      }));
    writeFileSync(path, archive(entries));
    const command =
      program === 'python3'
        ? ['-c', 'import sys,tarfile\nfor m in tarfile.open(sys.argv[1]): print(m.name)', path]
        : ['-tf', path];
    const names = execFileSync(program, command, { encoding: 'latin1' }).trimEnd().split('\n');
    assert.deepEqual(
      names.map((name) => name.replace(/\/$/, '')),
      entries.map(({ entry }) => entry.name as string),
    );
  });
}

test('paddingFor() gives memory that is its caller’s own: what he does with it, nobody else sees', () => {
  const mine = paddingFor(1);
  mine.fill(1);
  assert.deepEqual(paddingFor(1), Buffer.alloc(511));
  structuredClone(mine.buffer, { transfer: [mine.buffer as ArrayBuffer] });
  assert.deepEqual(paddingFor(1), Buffer.alloc(511));
});
