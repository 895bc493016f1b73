import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Deflater } from '../../src/codec/deflate.ts';
import { deflate, errorOf, inflate, sample } from './streams.ts';

const PIECES = { gzip: 1 << 20, zstd: 256 * 1024 } as const;
const LARGE = sample(2_200_000);

for (const kind of ['gzip', 'zstd'] as const) {
  const PIECE = PIECES[kind];
  test(`Deflater(${kind}) gives the same bytes whatever the chunking`, () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 400_000 }), { minLength: 1, maxLength: 6 });
    const whole = deflate(kind, LARGE);
    fc.assert(
      fc.property(lengths, (chunks) => {
        assert.ok(deflate(kind, LARGE, [...chunks, 50_000]).equals(whole));
      }),
      { numRuns: 20 },
    );
  });

  test(`Deflater(${kind}) packs sizes around its piece, with chunks of one byte or none`, () => {
    for (const size of [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE]) {
      const plain = LARGE.subarray(0, size);
      assert.ok(inflate(kind, deflate(kind, plain, [70_001])).equals(plain), `${size}`);
      assert.ok(deflate(kind, plain, [70_001]).equals(deflate(kind, plain, [PIECE, 5])), `${size}`);
    }
    const small = LARGE.subarray(0, 1000);
    assert.ok(deflate(kind, small, [1]).equals(deflate(kind, small)));
    const parts: Buffer[] = [];
    const deflater = new Deflater(kind, (part) => parts.push(Buffer.from(part)));
    for (const byte of small) {
      deflater.write(Buffer.alloc(0));
      deflater.write(Buffer.from([byte]));
    }
    deflater.finish();
    assert.ok(Buffer.concat(parts).equals(deflate(kind, small)));
  });

  test(`Deflater(${kind}) refuses calls once it is closed, finished or failed`, () => {
    const closed = new Deflater(kind, () => {});
    closed.close();
    closed.close();
    const finished = new Deflater(kind, () => {});
    finished.finish();
    const full = new Error('disk full');
    const failed = new Deflater(kind, () => {
      throw full;
    });
    assert.throws(() => failed.write(LARGE), full);
    for (const deflater of [closed, finished, failed]) {
      assert.equal(errorOf(() => deflater.write(LARGE)).code, 'failed-precondition');
      assert.equal(errorOf(() => deflater.finish()).code, 'failed-precondition');
    }
  });
}

test('Deflater(gzip) writes a header without name, with mtime 0 and system 255', () => {
  for (const size of [0, 1000, 1_000_000]) {
    assert.equal(deflate('gzip', LARGE.subarray(0, size)).subarray(0, 10).toString('hex'), '1f8b08000000000000ff');
  }
});

test('Deflater(zstd) writes one frame with a content checksum', () => {
  for (const size of [0, 1000, 1_000_000]) {
    const packed = deflate('zstd', LARGE.subarray(0, size));
    assert.equal(packed.readUInt32LE(0), 0xfd2fb528);
    assert.equal(packed[4]! & 0x04, 0x04);
    assert.equal(packed.indexOf(Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), 1), -1);
  }
});
