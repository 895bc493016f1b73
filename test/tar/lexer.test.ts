import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type TarEntry, TarLexer } from '../../src/tar/index.ts';
import { archive, written } from './arbitraries.ts';
import { lex } from './collect.ts';
import { END, extended, header, padded, pax } from './craft.ts';

/** The members' entries, after the law was checked in pieces of several sizes. */
function entries(...parts: readonly Uint8Array[]): TarEntry[] {
  const tar = Buffer.concat(parts);
  const whole = lex(tar);
  for (const sizes of [[1], [513, 511, 100]]) {
    const pieces = lex(tar, sizes);
    assert.ok(pieces.bytes.equals(tar));
    assert.deepEqual(pieces.members, whole.members);
  }
  assert.ok(whole.bytes.equals(tar));
  assert.ok(whole.members.every(({ ended }) => ended));
  return whole.members.map(({ entry }) => entry);
}

const one = (...parts: readonly Uint8Array[]): TarEntry => {
  const all = entries(...parts, END);
  assert.equal(all.length, 1);
  return all[0]!;
};

test('TarLexer: the parts, one after another, are the input, whatever follows the end marker', () => {
  fc.assert(
    fc.property(
      fc.array(written, { maxLength: 5 }),
      fc.uint8Array({ maxLength: 2000 }),
      fc.array(fc.integer({ min: 1, max: 3000 }), { minLength: 1, maxLength: 6 }),
      (members, behind, sizes) => {
        const tar = Buffer.concat([archive(members), behind]);
        const { members: read, bytes } = lex(tar, sizes);
        assert.ok(bytes.equals(tar));
        assert.equal(read.length, members.length);
      },
    ),
    { numRuns: 200 },
  );
});

test('TarLexer gives views of the chunk, not copies, also of shared memory', () => {
  const tar = Buffer.concat([header({ size: 5000 }), Buffer.alloc(5120), END]);
  const shared = new Uint8Array(new SharedArrayBuffer(tar.length));
  shared.set(tar);
  const seen: string[] = [];
  const note = (bytes: Uint8Array): void => {
    assert.equal(bytes.buffer, shared.buffer);
    seen.push(`${bytes.byteOffset}+${bytes.length}`);
  };
  const lexer = new TarLexer({ raw: note, data: note, entry: (entry) => seen.push(entry.name), end: () => {} });
  lexer.write(shared);
  lexer.finish();
  assert.deepEqual(seen, ['0+512', 'entry', '512+5000', `5512+${120 + 1024}`]);
});

test('TarLexer accepts every honest end, and never reads behind two zero blocks', () => {
  const file = header({ size: 3 });
  assert.equal(entries().length, 0);
  assert.equal(entries(END).length, 0);
  assert.equal(entries(Buffer.alloc(512)).length, 0);
  assert.equal(entries(file, padded('abc')).length, 1);
  assert.equal(entries(file, padded('abc'), Buffer.alloc(512)).length, 1);
  assert.equal(entries(file, Buffer.from('abc')).length, 1);
  assert.equal(entries(file, Buffer.from('abc\0')).length, 1);
  assert.equal(entries(file, padded('abc'), END, file, Buffer.from('garbage')).length, 1);
  assert.equal(entries(pax({ comment: 'c' }, 'g'), END).length, 0);
});

test('TarLexer reads numbers in every honest spelling', () => {
  const size = (text: string): number =>
    lex(Buffer.concat([header({ size: text }), padded('x'.repeat(10)), END])).members[0]!.payload.length;
  for (const ten of ['00000000012', '000000000012', '12', '         12 ', '12\0', '12 ', `\x80${'\0'.repeat(10)}\n`]) {
    assert.equal(size(ten), 10, JSON.stringify(ten));
  }
  for (const none of ['\0', '            ', '0', '\x80']) assert.equal(one(header({ size: none })).sizeBytes, 0);
  assert.equal(one(header({ mode: '100644 \0' })).mode, 0o644);
  assert.equal(one(header({ uid: '\x80\0\0\0\xff\xff\xff\xfe' })).uid, 0xffff_fffe);
  assert.equal(one(header({ uid: '77777777' })).uid, 0o77777777);
  assert.equal(one(header({ mtime: '\xff'.repeat(12) })).mtimeNs, -1_000_000_000n);
  assert.equal(one(header({ mtime: `\xff\xff\xff\xff\x80${'\0'.repeat(7)}` })).mtimeNs, -(2n ** 63n) * 1_000_000_000n);
});

test('TarLexer accepts signed checksums', () => {
  const block = header({ name: 'é\xff' });
  let sum = 0;
  for (const [i, byte] of block.entries()) sum += i >= 148 && i < 156 ? 32 : byte < 128 ? byte : byte - 256;
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  assert.equal(one(block).name, 'é\xff');
});

test('TarLexer takes the prefix of ustar, and of no other dialect', () => {
  assert.equal(one(header({ rest: 'some/where' })).name, 'some/where/entry');
  assert.equal(one(header({ rest: 'some/where', magic: 'ustar\0xx' })).name, 'some/where/entry');
  assert.equal(one(header({ rest: '00000000012', magic: 'ustar  \0' })).name, 'entry');
  assert.equal(one(header({ rest: 'garbage', magic: '\0' })).name, 'entry');
  assert.equal(one(header({ name: 'n'.repeat(100), rest: 'p'.repeat(155) })).name.length, 256);
});

test('TarLexer gives types their reading: what has a payload and what has none', () => {
  const type = (letter: string, name = 'entry'): string => one(header({ type: letter, name })).type;
  assert.deepEqual(
    ['\0', '0', '7', '1', '2', '3', '4', '5', '6', 'D', 'V'].map((letter) => type(letter)),
    [
      'file',
      'file',
      'file',
      'hardlink',
      'symlink',
      'character-device',
      'block-device',
      'directory',
      'fifo',
      'directory',
      'skipped',
    ],
  );
  assert.equal(type('\0', 'entry/'), 'directory');
  assert.equal(type('0', 'entry/'), 'file');
  for (const letter of ['2', '3', '4', '5', '6']) {
    const all = entries(header({ type: letter, size: 100 }), header({ name: 'next' }), END);
    assert.deepEqual(
      all.map((entry) => [entry.name, entry.sizeBytes]),
      [
        ['entry', 0],
        ['next', 0],
      ],
    );
  }
  assert.equal(entries(header({ type: '\0', name: 'd/', size: 100 }), header({}), END).length, 2);
  for (const letter of ['D', 'V']) {
    const tar = [
      header({ type: letter, size: 600 }),
      padded(header({ name: 'hidden' })),
      Buffer.alloc(512),
      header({}),
    ];
    assert.deepEqual(
      entries(...tar, END).map((entry) => [entry.name, entry.sizeBytes]),
      [
        ['entry', 0],
        ['entry', 0],
      ],
    );
  }
});

test('TarLexer gives a PAX size to the next ordinary entry only (CVE-2025-62518)', () => {
  const hidden = header({ name: 'hidden' });
  const tar = Buffer.concat([
    pax({ size: '1024' }),
    extended('L', 'long\0'),
    pax({ comment: 'c' }, 'g'),
    header({ size: 0 }),
    hidden,
    hidden,
    header({ name: 'next', size: 2 }),
    padded('ab'),
    END,
  ]);
  const { members } = lex(tar);
  assert.deepEqual(
    members.map(({ entry, payload }) => [entry.name, payload.length]),
    [
      ['long', 1024],
      ['next', 2],
    ],
  );
});

test('TarLexer prefers a PAX size to any size in the header', () => {
  for (const size of [0, 1, 512, 5000]) {
    const all = entries(pax({ size: '1024' }), header({ size }), Buffer.alloc(1024, 1), header({ name: 'next' }), END);
    assert.deepEqual(
      all.map((entry) => [entry.name, entry.sizeBytes]),
      [
        ['entry', 1024],
        ['next', 0],
      ],
    );
  }
});

test('TarLexer counts the extended headers of each entry for itself', () => {
  const member = Buffer.concat([extended('L', 'n'.repeat(600)), header({})]);
  const tar = Buffer.concat([member, member, member, END]);
  assert.equal(lex(tar, [tar.length], { headerBytesMax: 1000 }).members.length, 3);
});

test('TarLexer merges extended headers: global, local, deleted, the last of a kind', () => {
  const tar = Buffer.concat([
    pax({ uid: '5', mtime: '7.5', 'SCHILY.xattr.user.g': 'global' }, 'g'),
    header({ name: 'a' }),
    pax({ uid: '6', 'SCHILY.xattr.user.l': 'local' }),
    header({ name: 'b' }),
    pax({ uid: '', path: '', mtime: '' }),
    header({ name: 'c', uid: '3' }),
    pax({ path: 'first', gid: '9' }),
    pax({ path: 'second' }),
    header({}),
    extended('L', 'first\0'),
    extended('L', 'second\0ignored'),
    pax({ path: 'second' }),
    header({}),
    pax({ uid: '' }, 'g'),
    header({ name: 'd' }),
    END,
  ]);
  assert.deepEqual(
    entries(tar).map(({ name, uid, gid, mtimeNs, xattrs }) => [name, uid, gid, mtimeNs, [...xattrs.keys()].join()]),
    [
      ['a', 5, 0, 7_500_000_000n, 'user.g'],
      ['b', 6, 0, 7_500_000_000n, 'user.g,user.l'],
      ['c', 3, 0, 0n, 'user.g'],
      ['second', 5, 0, 7_500_000_000n, 'user.g'],
      ['second', 5, 0, 7_500_000_000n, 'user.g'],
      ['d', 0, 0, 7_500_000_000n, 'user.g'],
    ],
  );
});

test('TarLexer cuts times downwards to nanoseconds and keeps 64 bits of seconds', () => {
  for (const [text, ns] of [
    ['0', 0n],
    ['1.', 1_000_000_000n],
    ['1.0000000019', 1_000_000_001n],
    ['-1.5', -1_500_000_000n],
    ['-0.0000000001', -1n],
    ['-1.0000000010', -1_000_000_001n],
    ['9223372036854775807.999999999', 2n ** 63n * 1_000_000_000n - 1n],
    ['-9223372036854775808', -(2n ** 63n) * 1_000_000_000n],
  ] as const) {
    assert.equal(one(pax({ mtime: text }), header({})).mtimeNs, ns, text);
  }
});

test('TarLexer keeps attribute values whole, and takes libarchive’s where SCHILY has none', () => {
  const value = '\0a\n12 path=evil\n\xff';
  const { name, xattrs } = one(
    pax({
      'SCHILY.xattr.user.odd': value,
      'SCHILY.xattr.user.empty': '',
      'SCHILY.xattr.user.a%3Db': 'gnu',
      'SCHILY.xattr.user.both%20': 'schily',
      'LIBARCHIVE.xattr.user.both%20': 'bGli',
      'LIBARCHIVE.xattr.user.%ff': 'AP8=',
    }),
    header({}),
  );
  assert.equal(name, 'entry');
  assert.deepEqual(Object.fromEntries([...xattrs].map(([key, bytes]) => [key, bytes.toString('latin1')])), {
    'user.odd': value,
    'user.empty': '',
    'user.a=b': 'gnu',
    'user.both ': 'schily',
    'user.\xff': '\0\xff',
  });
});

test('TarLexer reads names and headers up to the limit', () => {
  const long = 'n'.repeat((1 << 20) - 1);
  assert.equal(one(extended('L', `${long}n`), header({})).name.length, 1 << 20);
  assert.equal(one(extended('K', long), header({ type: '2' })).linkName, long);
});

test('TarLexer reads runs that are not whole blocks one right after another', () => {
  const map = padded('3\n0\n3\n3\n1\n90\n0\n');
  const records = { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0', 'GNU.sparse.realsize': '90' };
  const tar = Buffer.concat([pax(records), header({ size: 516 }), map, padded('abcd'), END]);
  const { members } = lex(tar, [7]);
  assert.deepEqual(members[0]?.entry.sparse, [
    { offset: 0, length: 3 },
    { offset: 3, length: 1 },
  ]);
  assert.equal(members[0]?.payload.toString(), 'abcd');
});

test('skip() passes over a payload as if it had been read', () => {
  fc.assert(
    fc.property(fc.array(written, { maxLength: 5 }), fc.integer({ min: 1, max: 2000 }), (members, size) => {
      const tar = archive(members);
      const names: string[] = [];
      let skipped = 0;
      let ends = 0;
      const lexer = new TarLexer({
        raw: () => {},
        data: () => {},
        entry: (entry) => names.push(entry.name),
        end: () => ends++,
      });
      for (let at = 0; at < tar.length; ) {
        const chunk = tar.subarray(at, at + size);
        lexer.write(chunk);
        const left = lexer.payloadLeft();
        lexer.skip(left);
        skipped += left;
        at += chunk.length + left;
      }
      lexer.finish();
      assert.ok(lexer.ended);
      assert.deepEqual(
        names,
        lex(tar).members.map(({ entry }) => entry.name),
      );
      assert.equal(ends, members.length);
      assert.equal(lexer.payloadLeft(), 0);
      return skipped >= 0;
    }),
    { numRuns: 100 },
  );
  assert.throws(() => new TarLexer({ raw() {}, data() {}, entry() {}, end() {} }).skip(1), RangeError);
});
