import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { Inflater } from '../../src/codec/inflate.ts';
import { assertCorrupt, deflate, errorOf, inflate, pieces, Slots, sample } from './streams.ts';

const KINDS = ['gzip', 'zstd'] as const;
const TEXT = Buffer.from('Layers are stacked, and stacked again. Layers are stored.\n'.repeat(3));
const lengths = fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 8 });

for (const kind of [...KINDS, 'none'] as const) {
  test(`Inflater(${kind}) gives back what was packed, whatever the chunks and the slots`, () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 3000 }),
      fc.nat(3000).map((n) => Buffer.alloc(n)),
    );
    fc.assert(
      fc.property(bytes, lengths, fc.integer({ min: 1, max: 700 }), (plain, chunks, slot) => {
        const packed = kind === 'none' ? plain : deflate(kind, plain);
        const unpacked = inflate(kind, packed, { lengths: chunks, slot: new Uint8Array(slot) });
        assert.ok(unpacked.equals(plain));
      }),
      { numRuns: 150 },
    );
  });

  test(`Inflater(${kind}) writes into shared memory, at an offset, and nowhere else`, () => {
    const plain = sample(300_000);
    const memory = new Uint8Array(new SharedArrayBuffer(5000)).fill(0xee);
    const slot = memory.subarray(500, 4500);
    const packed = kind === 'none' ? plain : deflate(kind, plain);
    const shared = new Uint8Array(new SharedArrayBuffer(packed.length));
    shared.set(packed);
    assert.ok(inflate(kind, shared, { slot, lengths: [777] }).equals(plain));
    assert.ok(memory.subarray(0, 500).every((b) => b === 0xee) && memory.subarray(4500).every((b) => b === 0xee));
  });

  test(`Inflater(${kind}) refuses calls once it is closed, finished or failed`, () => {
    const fresh = (): Inflater => new Inflater(kind, new Slots(new Uint8Array(10)));
    const closed = fresh();
    closed.close();
    closed.close();
    const finished = fresh();
    finished.write(kind === 'none' ? TEXT : deflate(kind, TEXT));
    finished.finish();
    const failed = new Inflater(kind, { reserve: () => new Uint8Array(0), commit: () => {} });
    assert.equal(errorOf(() => failed.write(deflate('gzip', TEXT))).code, kind === 'zstd' ? 'corrupt' : 'internal');
    for (const inflater of [closed, finished, failed]) {
      assert.equal(errorOf(() => inflater.write(TEXT)).code, 'failed-precondition');
      assert.equal(errorOf(() => inflater.finish()).code, 'failed-precondition');
    }
  });
}

test('Inflater(none) takes no bytes at all as no bytes', () => {
  assert.equal(inflate('none', Buffer.alloc(0)).length, 0);
});

for (const kind of KINDS) {
  describe(`Inflater(${kind})`, () => {
    test(`Inflater(${kind}) lets what the sink throws pass, and is closed`, () => {
      const full = new Error('disk full');
      const inflater = new Inflater(kind, {
        reserve: () => new Uint8Array(10),
        commit: () => {
          throw full;
        },
      });
      assert.throws(() => inflater.write(deflate(kind, TEXT)), full);
      assert.equal(errorOf(() => inflater.write(TEXT)).code, 'failed-precondition');
    });

    test(`Inflater(${kind}) survives being closed by its sink in the middle of a write`, () => {
      const inflater: Inflater = new Inflater(kind, {
        reserve: () => new Uint8Array(10),
        commit: () => inflater.close(),
      });
      assert.equal(errorOf(() => inflater.write(deflate(kind, TEXT))).code, 'failed-precondition');
    });

    test(`Inflater(${kind}) has given all output that its input allows when write returns, however small the slots`, () => {
      const packed = deflate(kind, Buffer.concat([TEXT, Buffer.alloc(2000), TEXT]));
      for (let length = 1; length < packed.length; length++) {
        const [large, small] = [5000, 1].map((slot) => {
          const slots = new Slots(new Uint8Array(slot));
          const inflater = new Inflater(kind, slots);
          inflater.write(packed.subarray(0, length));
          inflater.close();
          return slots.bytes();
        });
        assert.deepEqual(small, large, `${length} bytes of input`);
      }
    });

    test(`Inflater(${kind}) refuses every truncation, no bytes included`, () => {
      const packed = deflate(kind, TEXT);
      for (let length = 0; length < packed.length; length++) {
        assertCorrupt(kind, packed.subarray(0, length), /unexpected end of file|cut off/);
      }
      assert.ok(inflate(kind, packed).equals(TEXT));
    });

    test(`Inflater(${kind}) refuses truncations of a large stream`, () => {
      const packed = deflate(kind, sample(700_000));
      for (const missing of [1, 4, 5, 8, 9, 1000, 262_144]) {
        assertCorrupt(kind, packed.subarray(0, packed.length - missing), /unexpected end of file|cut off/);
      }
    });

    test(`Inflater(${kind}) never gives other bytes for a flipped bit, and never loops`, () => {
      const packed = deflate(kind, TEXT);
      let harmless = 0;
      for (let bit = 0; bit < packed.length * 8; bit++) {
        const damaged = Buffer.from(packed);
        damaged[bit >> 3]! ^= 1 << (bit & 7);
        for (const manner of [{ lengths: [1], slot: new Uint8Array(7) }, {}]) {
          let unpacked: Buffer;
          try {
            unpacked = inflate(kind, damaged, manner);
          } catch (error) {
            assert.equal(
              errorOf(() => {
                throw error;
              }).code,
              'corrupt',
              `bit ${bit}: ${error}`,
            );
            continue;
          }
          assert.ok(unpacked.equals(TEXT), `bit ${bit}`);
          harmless++;
        }
      }
      // A gzip header has 56 bits that say nothing (time, system, hints); zstd has its window's size.
      assert.ok(harmless < 64 * 2, `${harmless} harmless flips`);
    });

    test(`Inflater(${kind}) ends on any bytes after a true beginning, without crash or loop`, () => {
      const packed = deflate(kind, sample(2000));
      fc.assert(
        fc.property(
          fc.nat(packed.length),
          fc.uint8Array({ minLength: 1, maxLength: 200 }),
          lengths,
          (cut, tail, chunks) => {
            const bytes = Buffer.concat([packed.subarray(0, cut), tail]);
            try {
              inflate(kind, bytes, { lengths: chunks });
            } catch (error) {
              assert.equal(
                errorOf(() => {
                  throw error;
                }).code,
                'corrupt',
                String(error),
              );
            }
          },
        ),
        { numRuns: 300 },
      );
    });

    test(`Inflater(${kind}) reads one stream after another, as one, empty ones too`, () => {
      const parts = [TEXT, Buffer.alloc(0), sample(5000), Buffer.alloc(0), TEXT];
      const packed = Buffer.concat(parts.map((part) => deflate(kind, part)));
      const plain = Buffer.concat(parts);
      for (const manner of [{}, { lengths: [1] }, { lengths: [7, 50], slot: new Uint8Array(TEXT.length) }]) {
        assert.ok(inflate(kind, packed, manner).equals(plain));
      }
      assertCorrupt(kind, packed.subarray(0, -1), /unexpected end of file|cut off/);
    });

    test(`Inflater(${kind}) reads 20,000 empty streams in linear time`, () => {
      const one = deflate(kind, Buffer.alloc(0));
      const begin = performance.now();
      assert.equal(inflate(kind, Buffer.concat(Array(20_000).fill(one))).length, 0);
      assert.ok(performance.now() - begin < 5000);
    });

    test(`Inflater(${kind}) refuses bytes that are no stream after the last one`, () => {
      for (const tail of ['x', 'trailing garbage', '\x1f', '\x1f\x8b', '\x28\xb5', 'x\0\0\0', '\x28\xb5\x2f\xfe']) {
        assertCorrupt(kind, Buffer.concat([deflate(kind, TEXT), Buffer.from(tail, 'latin1')]), /./);
      }
    });

    test(`Inflater(${kind}) refuses a bomb beyond the free bytes, before its bytes are handed out`, () => {
      const packed = deflate(kind, Buffer.alloc(8 << 20));
      const limits = { freeBytes: 1 << 20, ratioMax: 100 };
      assertCorrupt(kind, packed, /beyond 100 to 1/, limits);
      const slots = new Slots(new Uint8Array(4096));
      const inflater = new Inflater(kind, slots, limits);
      assert.throws(() => inflater.write(packed));
      assert.ok(slots.bytes().length <= 1 << 20);
      assert.equal(inflate(kind, packed, { limits: { freeBytes: 8 << 20 } }).length, 8 << 20);
      assert.equal(inflate(kind, packed, { limits: { freeBytes: 0, ratioMax: Infinity } }).length, 8 << 20);
    });

    test(`Inflater(${kind}) refuses a bomb made of many small streams`, () => {
      const packed = Buffer.concat(Array(100).fill(deflate(kind, Buffer.alloc(100_000))));
      assertCorrupt(kind, packed, /beyond 100 to 1/, { freeBytes: 1 << 20 });
    });

    test(`Inflater(${kind}) measures against the whole input where its size is known, and does not trust it`, () => {
      const plain = Buffer.concat([Buffer.alloc(3 << 20), sample(200_000)]);
      const packed = deflate(kind, plain);
      const limits = { freeBytes: 1 << 20 };
      assertCorrupt(kind, packed, /beyond 100 to 1/, limits);
      assert.ok(inflate(kind, packed, { limits: { ...limits, inputSizeBytes: packed.length } }).equals(plain));
      const bomb = deflate(kind, Buffer.alloc(3 << 20));
      assertCorrupt(kind, bomb, /beyond 100 to 1/, { ...limits, inputSizeBytes: 1 << 20 });
    });
  });
}

test('Inflater(gzip) takes zeros after the last member as padding, however they are cut', () => {
  const packed = deflate('gzip', TEXT);
  for (const zeros of [1, 2, 511, 100_000]) {
    const padded = Buffer.concat([packed, Buffer.alloc(zeros)]);
    for (const chunks of [[Infinity], [1], [packed.length, 1000], [packed.length + 1, 3]]) {
      assert.ok(inflate('gzip', padded, { lengths: chunks }).equals(TEXT));
    }
    // The output is full exactly where the padding begins.
    assert.ok(inflate('gzip', padded, { slot: new Uint8Array(TEXT.length) }).equals(TEXT));
  }
});

test('Inflater(gzip) refuses anything but zeros in the padding, a further member too', () => {
  const packed = deflate('gzip', TEXT);
  for (const tail of [Buffer.from([1]), packed]) {
    assertCorrupt(
      'gzip',
      Buffer.concat([packed, Buffer.alloc(3), tail]),
      new RegExp(`padding, at input byte ${packed.length + 3};`),
    );
  }
});

test('Inflater(gzip) refuses zeros before the first member, and zlib without gzip', () => {
  assertCorrupt('gzip', Buffer.concat([Buffer.alloc(1), deflate('gzip', TEXT)]), /incorrect header check/);
  assertCorrupt('gzip', Buffer.from('789c030000000001', 'hex'), /incorrect header check/);
});

test('Inflater(gzip) checks the CRC and the length, of each member', () => {
  const packed = deflate('gzip', TEXT);
  for (const [back, reason] of [
    [8, /incorrect data check/],
    [1, /incorrect length check/],
  ] as const) {
    const damaged = Buffer.from(packed);
    damaged[packed.length - back]! ^= 0x40;
    assertCorrupt('gzip', damaged, reason);
    assertCorrupt('gzip', Buffer.concat([damaged, packed]), reason);
    assertCorrupt('gzip', Buffer.concat([packed, damaged]), reason);
  }
});

test('Inflater(gzip) reads headers with extra field, name, comment and header CRC', () => {
  const body = deflate('gzip', TEXT).subarray(10);
  const header = Buffer.from('1f8b081c00000000000304004142434461626300636f6d6d656e7400', 'hex');
  const packed = Buffer.concat([header, body]);
  assert.ok(inflate('gzip', packed).equals(TEXT));
  assert.ok(inflate('gzip', packed, { lengths: [1] }).equals(TEXT));
});

test('Inflater names the chunk in which the data is damaged', () => {
  const packed = deflate('gzip', sample(100_000));
  packed[packed.length - 8]! ^= 1;
  const at = packed.length - (packed.length % 1000);
  const inflater = new Inflater('gzip', new Slots(new Uint8Array(4096)));
  const error = errorOf(() => {
    for (const piece of pieces(packed, [1000])) inflater.write(piece);
  });
  const [, from, to] = /between input bytes (\d+) and (\d+)/.exec(error.message) ?? [];
  assert.ok(Number(from) >= at && Number(to) <= packed.length, error.message);
});
