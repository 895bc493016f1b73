import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { zstdDecompressSync } from 'node:zlib';
import fc from 'fast-check';
import { Deflater } from '../../src/codec/deflate.ts';
import { zstdStream } from '../../src/linux/zstd.ts';
import { MISSING, replacingFunctions } from '../kit/hidden-functions.ts';

const ZSTD = fileURLToPath(new URL('../../src/linux/zstd.ts', import.meta.url));
const DEFLATE = fileURLToPath(new URL('../../src/codec/deflate.ts', import.meta.url));

function packed(pieces: readonly Uint8Array[], level: 1 | 3, native: boolean): Buffer {
  const parts: Buffer[] = [];
  const by = native ? zstdStream(level) : undefined;
  assert.equal(by !== undefined, native);
  const deflater = new Deflater('zstd', (bytes) => parts.push(Buffer.from(bytes)), { level, by });
  for (const piece of pieces) deflater.write(piece);
  deflater.finish();
  deflater.close();
  return Buffer.concat(parts);
}

test('zstdStream() makes the frames that node:zlib makes, of any pieces', () => {
  const noise = randomBytes(1 << 20);
  const piece = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    fc.tuple(fc.nat(1 << 19), fc.nat(1 << 19)).map(([from, length]) => noise.subarray(from, from + length)),
    fc.tuple(fc.nat(255), fc.nat(700_000)).map(([byte, length]) => Buffer.alloc(length, byte)),
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 8 }), fc.constantFrom(1 as const, 3 as const), (pieces, level) => {
      const frame = packed(pieces, level, true);
      assert.ok(frame.equals(packed(pieces, level, false)));
      assert.ok(zstdDecompressSync(frame).equals(Buffer.concat(pieces)));
    }),
    { numRuns: 100 },
  );
});

test('streams of zstdStream() go on beside one another, give their memory back and are closed for good', () => {
  const text = Buffer.from('some text');
  const rss = (): number => process.memoryUsage.rss();
  for (let i = 0; i < 50; i++) packed([randomBytes(1000)], 3, true);
  const before = rss();
  for (let i = 0; i < 300; i++) {
    const streams = [zstdStream(1), zstdStream(3)] as const;
    const room = Buffer.alloc(1000);
    for (const one of streams) assert.equal(one?.step(0, text, 0, room), undefined);
    for (const one of streams) {
      assert.equal(one?.consumed, text.length);
      assert.equal(one?.step(2, text, text.length, room), undefined);
      assert.ok(zstdDecompressSync(room.subarray(0, one?.produced)).equals(text));
      one?.close();
      one?.close();
      assert.throws(() => one?.step(0, text, 0, room), /the stream is closed/);
    }
  }
  // A stream of level 3 has a megabyte and more.
  assert.ok(rss() - before < 100 << 20, `${rss() - before} bytes more`);
});

/** What a process prints that may look for other functions than there are, and whether it had to load node:zlib. */
function inAnother(prepare: string): string {
  const script = `
    ${prepare}
    const { zstdStream } = await import(${JSON.stringify(ZSTD)});
    const { Deflater } = await import(${JSON.stringify(DEFLATE)});
    const parts = [];
    const by = zstdStream(1);
    const deflater = new Deflater('zstd', (bytes) => parts.push(Buffer.from(bytes)), { level: 1, by });
    deflater.write(Buffer.from('abc'));
    deflater.finish();
    console.log(Buffer.concat(parts).toString('hex'), by !== undefined);`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
  return stdout.trim();
}

test('a Node that hides the functions of zstd, or has others of their names, compresses by node:zlib', () => {
  const abc = packed([Buffer.from('abc')], 1, false).toString('hex');
  assert.equal(inAnother(''), `${abc} true`);
  assert.equal(inAnother(replacingFunctions(/ZSTD_/, MISSING)), `${abc} false`);
  assert.equal(inAnother(replacingFunctions(/ZSTD_/, '() => 1')), `${abc} false`);
  assert.equal(inAnother(replacingFunctions(/ZSTD_/, '() => 18446744073709551552n')), `${abc} false`); // -64: no memory
});
