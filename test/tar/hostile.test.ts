import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isStorageError, type StorageError } from '../../src/base/errors.ts';
import { TarLexer, type TarLimits, type TarSink } from '../../src/tar/index.ts';
import { lex } from './collect.ts';
import { END, extended, header, padded, pax } from './craft.ts';

/** Every archive here is refused as corrupt, in one piece and byte by byte, for the reason given. */
function refused(title: string, why: RegExp, parts: readonly Uint8Array[], limits: Partial<TarLimits> = {}): void {
  test(`TarLexer refuses ${title}`, () => {
    const tar = Buffer.concat(parts);
    for (const sizes of [[tar.length], [509]]) {
      let thrown: unknown;
      try {
        lex(tar, sizes, limits);
      } catch (error) {
        thrown = error;
      }
      assert.ok(isStorageError(thrown, 'corrupt'), String(thrown));
      assert.match((thrown as StorageError).message, why);
      assert.match((thrown as StorageError).message, /at byte \d+/);
    }
  });
}

const FILE = header({});
const sparse = (records: Record<string, string>): Buffer => pax({ 'GNU.sparse.realsize': '100', ...records });
const V1 = { 'GNU.sparse.major': '1', 'GNU.sparse.minor': '0' };
const mapped = (map: string, data = ''): Buffer[] => {
  const payload = Buffer.concat([padded(map), Buffer.from(data)]);
  return [sparse(V1), header({ size: payload.length }), padded(payload), END];
};

// Numbers
refused('an octal field with another digit', /size is "0000000008/, [header({ size: '00000000089' })]);
refused('an octal field with a sign', /uid is "-1/, [header({ uid: '-1' }), END]);
refused('a number with a letter behind it', /mode is/, [header({ mode: '644x' }), END]);
refused('digits after a leading NUL', /size is "\\x00/, [header({ size: '\x00000000012' }), END]);
refused('a negative base-256 size', /size is negative/, [header({ size: '\xff'.repeat(12) })]);
refused('a negative base-256 uid', /uid is negative/, [header({ uid: '\xff'.repeat(8) })]);
refused('a base-256 size of 2^63', /size is larger/, [header({ size: `\x80\0\0\0\x80${'\0'.repeat(7)}` })]);
refused('a base-256 size of all bits', /size is larger/, [header({ size: `\xbf${'\xff'.repeat(11)}` })]);
refused('a uid of 2^32 - 1', /uid is 4294967295/, [header({ uid: '\x80\0\0\0\xff\xff\xff\xff' }), END]);
refused('a gid of 2^32, which would wrap to 0', /gid is 4294967296/, [header({ gid: '\x80\0\0\x01\0\0\0\0' }), END]);
refused('a PAX uid of 2^32 - 1', /PAX uid is "4294967295"/, [pax({ uid: '4294967295' }), FILE, END]);
refused('a negative PAX gid', /PAX gid is "-1"/, [pax({ gid: '-1' }), FILE, END]);
refused('a PAX size beyond 2^63', /PAX size is "9223372036854775808"/, [pax({ size: '9223372036854775808' }), FILE]);
refused('a PAX size in hexadecimal', /PAX size is "0x10"/, [pax({ size: '0x10' }), FILE]);
refused('an mtime beyond 64 bits', /mtime is beyond/, [header({ mtime: `\x80\0\0\0\x80${'\0'.repeat(7)}` }), END]);
refused('a negative mtime beyond 64 bits', /mtime is beyond/, [header({ mtime: `\xc0${'\0'.repeat(11)}` }), END]);
refused('a PAX mtime beyond 64 bits', /beyond 64 bits/, [pax({ mtime: '9223372036854775808' }), FILE, END]);
for (const time of ['.5', '1e9', '0x1', 'NaN', '1,5', ' 1', '--1', '1.5.5', '+1', '1.-5']) {
  refused(`the PAX mtime ${JSON.stringify(time)}`, /not a time/, [pax({ mtime: time }), FILE, END]);
}
refused('a device major of 13 bits', /device 4096:0/, [header({ type: '3', major: '0010000' }), END]);
refused('a device minor of 21 bits', /device 0:1048576/, [header({ type: '4', minor: '4000000' }), END]);

// Headers
refused('a wrong checksum', /checksum is 1,/, [header({ checksum: '0000001\0' }), END]);
test('TarLexer says of what is no archive at all that it is none', () => {
  const text = 'root:x:0:0:root:/root:/bin/bash\n';
  const none = { code: 'corrupt', message: 'Cannot read the archive: it is no tar archive' };
  for (const bytes of [Buffer.alloc(1024, 0xff), Buffer.from(text.repeat(40)), Buffer.from(text)]) {
    for (const size of [bytes.length, 509]) assert.throws(() => lex(bytes, [size]), none);
  }
});
refused('garbage after an entry', /checksum/, [FILE, Buffer.alloc(512, 0xff), END]);
for (const type of ['M', 'N', 'X', 'A', 'Z', '8', '9', '\xff', ' ']) {
  refused(`the type ${JSON.stringify(type)}`, /unknown|another volume/, [header({ type }), END]);
}
refused('a hard link with a size', /hard link with a size of 3/, [header({ type: '1', size: 3 }), padded('abc'), END]);
refused('a hard link with a PAX size', /hard link with a size/, [pax({ size: '3' }), header({ type: '1' }), END]);
refused('a hard link whose size PAX denies', /size of 3/, [pax({ size: '0' }), header({ type: '1', size: 3 }), END]);
refused('a GNU long name without one', /long name is empty/, [extended('L', ''), FILE, END]);
refused('a PAX and a GNU name that differ', /two names/, [extended('L', 'a\0'), pax({ path: 'b' }), FILE, END]);
refused('a PAX and a GNU target that differ', /two names/, [
  pax({ linkpath: 'b' }),
  extended('K', 'a\0'),
  header({ type: '2' }),
  END,
]);

// PAX records
for (const [what, text] of Object.entries({
  'a length that is too long': '99 path=a\n',
  'a length that is too short': '8 path=abc\n',
  'a length of 0': '0 path=a\n',
  'a length with a leading zero': '010 path=a\n',
  'a negative length': '-10 path=a\n',
  'a length without end': '9'.repeat(400),
  'no length': ' path=a\n',
  'no keyword': '6 =abc\n',
  'no equals sign': '9 pathabc\n',
  'no newline': '10 path=ab',
  'no blank': '10path=ab\n',
  'only a length': '3 \n',
  'garbage behind a record': '10 path=a\n\0\0\0\0',
})) {
  const bytes = text.replace('10 path=a\n', '9 path=a\n');
  refused(`a PAX record with ${what}`, /PAX record/, [extended('x', what.startsWith('a length') ? text : bytes), FILE]);
}
refused('a PAX path with a NUL', /PAX path .* holds a NUL/, [pax({ path: 'a\0b' }), FILE, END]);
refused('a PAX linkpath with a NUL', /PAX linkpath .* holds a NUL/, [pax({ linkpath: 'a\0b' }), FILE, END]);
refused('a PAX keyword with a NUL', /keyword .* holds a NUL/, [pax({ 'SCHILY.xattr.user.a\0': 'b' }), FILE, END]);
refused('an attribute without a name', /without a name/, [pax({ 'SCHILY.xattr.': 'b' }), FILE, END]);
refused('a libarchive attribute that is not base64', /base64/, [pax({ 'LIBARCHIVE.xattr.user.a': 'a*b' }), FILE, END]);
refused('a libarchive attribute name with an encoded NUL', /badly encoded/, [
  pax({ 'LIBARCHIVE.xattr.user.%00': 'YQ' }),
  FILE,
  END,
]);
refused('a size in a global header', /global header sets the size/, [pax({ size: '512' }, 'g'), FILE, END]);
refused('a sparse map in a global header', /global header sets the size/, [pax({ ...V1 }, 'g'), FILE, END]);

// Limits
const MiB = 1 << 20;
refused('an extended header over the limit', /1048577 bytes, 1048576 are allowed/, [
  header({ type: 'x', size: MiB + 1 }),
]);
refused('a long name over the limit', /1048577 bytes/, [header({ type: 'L', size: MiB + 1 })]);
refused('an extended header of 2^53 bytes before it comes', /larger than/, [
  header({ type: 'x', size: `\x80\0\0\0\0\x20${'\0'.repeat(6)}` }),
]);
refused(
  'a chain of extended headers over the limit together',
  /extended headers of one entry have 1200 bytes/,
  [extended('L', 'n'.repeat(400)), extended('K', 'n'.repeat(400)), extended('x', 'n'.repeat(400))],
  { headerBytesMax: 1000 },
);
refused(
  'global headers over the limit together',
  /global headers of this archive have \d+ bytes/,
  [...Array(50)].flatMap(() => [pax({ comment: 'c'.repeat(30) }, 'g'), FILE]),
  { headerBytesMax: 1000 },
);

// Sparse files
refused('a 1.0 map of 10^15 runs before it allocates', /more than 1000000 runs/, mapped('1000000000000000\n'));
refused('a 1.0 map with more runs than the limit', /more than 1 runs/, mapped('2\n0\n1\n2\n1\n', 'ab'), {
  extentsMax: 1,
} as const);
refused('a 1.0 map with an endless number', /number too large/, mapped('9'.repeat(600)));
refused('a 1.0 map with many zeros before a number', /number too large/, mapped('0'.repeat(600)));
refused('a 1.0 map that is cut', /longer than its payload/, mapped('300\n'.padEnd(512, '0\n')));
refused('a 1.0 map with a letter', /no decimal number/, mapped('1\n0\nx\n'));
refused('a 1.0 map with an empty line', /empty line/, mapped('1\n\n1\n'));
refused('a 1.0 map without a payload', /longer than its payload/, [sparse(V1), header({}), END]);
refused('a 1.0 map in less than a block', /longer than its payload/, [sparse(V1), header({ size: 2 }), padded('0\n')]);
refused('a map that goes back', /goes back/, mapped('2\n10\n1\n5\n1\n', 'ab'));
refused('a map that overlaps', /goes back/, mapped('2\n0\n5\n4\n1\n', 'abcdef'));
refused('a map beyond the file', /leaves the file/, mapped('1\n99\n2\n', 'ab'));
refused('a map whose sums overflow', /leaves the file/, mapped('1\n90\n9007199250000000\n', 'ab'));
refused('a map with less than the payload', /1 bytes of data, its payload 2/, mapped('1\n0\n1\n', 'ab'));
refused('a map with more than the payload', /3 bytes of data, its payload 2/, mapped('1\n0\n3\n', 'ab'));
refused('a 1.0 map and a 0.1 map', /two sparse maps/, [
  sparse({ ...V1, 'GNU.sparse.map': '0,1', 'GNU.sparse.numblocks': '1' }),
  header({ size: 512 }),
  END,
]);
refused('a sparse format 2.0', /format is 2.0/, [sparse({ 'GNU.sparse.major': '2', 'GNU.sparse.minor': '0' }), FILE]);
refused('sparse records without the real size', /lack the real size/, [pax(V1), header({ size: 512 })]);
refused('two real sizes', /two real sizes/, [sparse({ 'GNU.sparse.size': '5' }), FILE]);
refused('a 0.1 map with an odd count', /1 numbers for 1/, [
  sparse({ 'GNU.sparse.map': '1', 'GNU.sparse.numblocks': '1' }),
  FILE,
]);
refused('a 0.1 map with another count than it says', /2 numbers for 2/, [
  sparse({ 'GNU.sparse.map': '0,0', 'GNU.sparse.numblocks': '2' }),
  FILE,
]);
refused('a 0.0 map that does not alternate', /alternate/, [extended('x', '25 GNU.sparse.numbytes=1\n'), FILE]);
refused('a sparse name with a NUL', /holds a NUL/, [sparse({ ...V1, 'GNU.sparse.name': 'a\0' }), FILE]);
refused('a sparse directory', /no plain file/, [sparse(V1), header({ type: '5' })]);

const GNU = { type: 'S', magic: 'ustar  \0' };
const run = (offset: number, length: number): string =>
  `${offset.toString(8).padStart(11, '0')}\0${length.toString(8).padStart(11, '0')}\0`;
const old = (runs: string, more: string, real: number): string =>
  `${'\0'.repeat(41)}${runs.padEnd(96, '\0')}${more}${real.toString(8).padStart(11, '0')}\0`;
refused('an old sparse header that is not GNU', /not GNU/, [header({ type: 'S' }), END]);
refused('an old sparse map beyond the file', /leaves the file/, [header({ ...GNU, rest: old(run(5, 6), '\0', 10) })]);
refused('an old sparse map that ends and goes on', /claims another block/, [
  header({ ...GNU, rest: old(run(0, 1), '\x01', 10) }),
]);
refused('an old sparse run with half its numbers', /one number/, [
  header({ ...GNU, rest: old(`${'0'.repeat(11)}\0`, '\0', 10) }),
]);
refused('an old sparse map cut before its next block', /ends inside it/, [
  header({ ...GNU, size: 4, rest: old(run(0, 1) + run(2, 1) + run(4, 1) + run(6, 1), '\x01', 10) }),
]);
refused('old and PAX sparse in one', /no plain file/, [sparse(V1), header({ ...GNU, size: 512 })]);

// End
refused('an entry behind a lone zero block', /after a block of zeros/, [FILE, Buffer.alloc(512), FILE, END]);
refused('an end inside a header', /ends inside a header/, [FILE, FILE.subarray(0, 511)]);
refused('an end inside a zero block', /ends inside a header/, [FILE, Buffer.alloc(700)]);
refused('an end inside a payload', /ends inside it/, [header({ size: 1000 }), Buffer.alloc(999)]);
refused('an end before a payload', /ends inside it/, [header({ size: 1 })]);
refused('an end inside a skipped payload', /ends inside it/, [header({ type: 'D', size: 1000 }), Buffer.alloc(999)]);
refused('an end inside an extended header', /ends inside it/, [header({ type: 'x', size: 100 }), Buffer.alloc(99)]);
refused('an end between an extended header and its entry', /between its extended/, [pax({ path: 'a' })]);
refused('an end marker between an extended header and its entry', /between its extended/, [pax({ path: 'a' }), END]);
refused('a size of nearly 2^53 whose payload never comes', /ends inside it/, [
  header({ size: `\x80${'\0'.repeat(4)}\0\x1f${'\xff'.repeat(4)}\0` }),
  Buffer.alloc(5000),
]);

const NOTHING: TarSink = { raw: () => {}, entry: () => {}, data: () => {}, end: () => {} };

test('TarLexer takes a million extended headers before one entry without recursion', () => {
  const part = Buffer.alloc(512 * 1000);
  const empty = header({ type: 'x' });
  for (let at = 0; at < part.length; at += 512) empty.copy(part, at);
  let entries = 0;
  const lexer = new TarLexer({ ...NOTHING, entry: () => entries++ });
  for (let i = 0; i < 1000; i++) lexer.write(part);
  lexer.write(Buffer.concat([FILE, END]));
  lexer.finish();
  assert.equal(entries, 1);
});

test('TarLexer names entry and offset, quoted, and stays spent after an error', () => {
  const lexer = new TarLexer(NOTHING);
  const evil = header({ name: 'evil\x1b[2J\n', type: 'M' });
  const expected = (error: StorageError): boolean =>
    error.message.includes('entry "evil\\x1b[2J\\n", whose header is at byte 512') && error.path === 'evil\x1b[2J\n';
  assert.throws(() => lexer.write(Buffer.concat([FILE, evil])), expected);
  assert.throws(() => lexer.write(FILE), expected);
  assert.throws(() => lexer.finish(), expected);
});

test('TarLexer passes on what its sink throws, and is spent', () => {
  const reason = new Error('no space');
  const lexer = new TarLexer({
    ...NOTHING,
    entry: () => {
      throw reason;
    },
  });
  assert.throws(
    () => lexer.write(FILE),
    (error) => error === reason,
  );
  assert.throws(
    () => lexer.finish(),
    (error) => error === reason,
  );
});
