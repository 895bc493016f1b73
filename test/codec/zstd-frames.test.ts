import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { assertCorrupt, deflate, inflate, sample } from './streams.ts';

const TEXT = Buffer.from('zstd frames follow each other. '.repeat(10));
const packed = deflate('zstd', TEXT);

/** A skippable frame of the given content. */
function skippable(content: Uint8Array, low = 0): Buffer {
  const header = Buffer.from([0x50 + low, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]);
  header.writeUInt32LE(content.length, 4);
  return Buffer.concat([header, content]);
}

/** A frame of one raw block "abc" behind the given header (descriptor and what it announces). */
function rawFrame(header: readonly number[]): Buffer {
  return Buffer.from([0x28, 0xb5, 0x2f, 0xfd, ...header, 0x19, 0, 0, 0x61, 0x62, 0x63]);
}

test('Inflater(zstd) skips skippable frames first, between, last, empty and large', () => {
  const parts = [
    skippable(Buffer.alloc(0)),
    skippable(sample(300_000), 15),
    packed,
    skippable(packed, 7),
    packed,
    skippable(Buffer.from('end')),
  ];
  for (const lengths of [[Infinity], [1], [13, 4096]]) {
    assert.ok(inflate('zstd', Buffer.concat(parts), { lengths }).equals(Buffer.concat([TEXT, TEXT])));
  }
  assert.equal(inflate('zstd', skippable(TEXT)).length, 0);
});

test('Inflater(zstd) refuses a skippable frame that is cut off, at every point', () => {
  const frames = Buffer.concat([packed, skippable(Buffer.from('12345'))]);
  for (let length = packed.length + 1; length < frames.length; length++) {
    assertCorrupt('zstd', frames.subarray(0, length), /cut off/);
  }
  assertCorrupt('zstd', Buffer.from('502a4d18ffffffff00', 'hex'), /cut off at input byte 9/);
});

test('Inflater(zstd) reads every shape of frame header', () => {
  const table: readonly (readonly [string, readonly number[]])[] = [
    ['window', [0x00, 0x00]],
    ['window of 2^27', [0x00, 0x88]],
    ['single segment, size in 1 byte', [0x20, 3]],
    ['window, size in 4 bytes', [0x80, 0x00, 3, 0, 0, 0]],
    ['single segment, size in 8 bytes', [0xe0, 3, 0, 0, 0, 0, 0, 0, 0]],
    ['dictionary id 0 in 1 byte', [0x01, 0x00, 0]],
    ['dictionary id 0 in 4 bytes', [0x03, 0x00, 0, 0, 0, 0]],
  ];
  for (const [name, header] of table) {
    for (const lengths of [[Infinity], [1]]) {
      const two = Buffer.concat([rawFrame(header), packed]);
      assert.ok(inflate('zstd', two, { lengths }).equals(Buffer.concat([Buffer.from('abc'), TEXT])), name);
    }
  }
});

test('Inflater(zstd) refuses a window over 2^27, however little is in the frame', () => {
  assertCorrupt('zstd', rawFrame([0x00, 0x89]), /at input byte 5 a frame wants a window of 150994944 bytes/);
  assertCorrupt('zstd', rawFrame([0x00, 0xff]), /window of 4123168604160 bytes/);
  assertCorrupt('zstd', rawFrame([0xe0, 1, 0, 0, 8, 0, 0, 0, 0]), /window of 134217729 bytes/);
  assertCorrupt('zstd', rawFrame([0xe0, 255, 255, 255, 255, 255, 255, 255, 255]), /a window of/);
  assertCorrupt('zstd', Buffer.concat([packed, rawFrame([0x00, 0x90])]), /window of 268435456 bytes/);
});

test('Inflater(zstd) refuses a frame that names a dictionary', () => {
  assertCorrupt('zstd', rawFrame([0x01, 0x00, 9]), /wants dictionary 9,/);
  assertCorrupt('zstd', rawFrame([0x02, 0x00, 1, 2]), /wants dictionary 513,/);
  assertCorrupt('zstd', rawFrame([0x23, 1, 0, 0, 0x80, 3]), /wants dictionary 2147483649,/);
});

test('Inflater(zstd) refuses reserved blocks, old formats, and a size that lies', () => {
  assertCorrupt(
    'zstd',
    Buffer.from('28b52ffd00001f0000616263', 'hex'),
    /at input byte 6 a block has the reserved type/,
  );
  assertCorrupt(
    'zstd',
    Buffer.from('27b52ffd0000190000616263', 'hex'),
    /at input byte 0 it does not begin|Unknown frame descriptor/,
  );
  assertCorrupt('zstd', rawFrame([0x20, 4]), /corruption|size/i);
  assertCorrupt('zstd', rawFrame([0x20, 2]), /corruption|size|small/i);
});

test('Inflater(zstd) checks the content checksum', () => {
  const damaged = Buffer.from(packed);
  damaged[packed.length - 1]! ^= 1;
  assertCorrupt('zstd', damaged, /checksum/);
});

test('Inflater(zstd) does not take zeros as padding', () => {
  assertCorrupt('zstd', Buffer.concat([packed, Buffer.alloc(4)]), /no frame|Unknown frame descriptor/);
});

test('Inflater(zstd) reads run-length blocks, the densest bomb there is, only to the ratio', () => {
  // 128 KiB of "a" in 4 bytes, 200 times.
  const block = Buffer.from([((0x20000 << 3) & 0xff) | 2, (0x20000 >> 5) & 0xff, (0x20000 >> 13) & 0xff, 0x61]);
  const last = Buffer.from(block);
  last[0]! |= 1;
  const header = Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38]);
  const bomb = Buffer.concat([header, ...Array(199).fill(block), last]);
  assert.equal(inflate('zstd', bomb).length, 200 * 0x20000);
  assertCorrupt('zstd', bomb, /beyond 100 to 1/, { freeBytes: 1 << 20 });
});

test('Inflater(zstd) refuses the frames of zstd --long=28 and takes those of --long=27', (t) => {
  if (!need(t, 'zstd')) return;
  const plain = sample(100_000);
  const zstd = (...args: string[]): Buffer =>
    spawnSync('zstd', ['-c', ...args], { input: plain, timeout: 60_000 }).stdout;
  assert.ok(inflate('zstd', zstd('-1', '--long=27')).equals(plain));
  assertCorrupt('zstd', zstd('-1', '--ultra', '--long=28'), /a frame wants a window of 268435456 bytes/);
});

test('Inflater(zstd) refuses the frames of zstd -D, with and without the id', async (t) => {
  if (!need(t, 'zstd')) return;
  await using dir = await scratch('codec');
  const samples = Array.from({ length: 400 }, (_, i) => {
    const path = join(dir.path, `sample-${i}`);
    writeFileSync(path, `{"name":"layer-${i}","size":${i * 7919},"kind":"committed","parent":"layer-${i - 1}"}`);
    return path;
  });
  const dictionary = join(dir.path, 'dictionary');
  const trained = spawnSync('zstd', ['--train', ...samples, '-o', dictionary, '--dictID=77', '--maxdict=4096', '-q'], {
    timeout: 60_000,
  });
  assert.equal(trained.status, 0, String(trained.stderr));
  const withId = spawnSync('zstd', ['-D', dictionary, '-c', samples[5]!], { timeout: 10_000 });
  assertCorrupt('zstd', withId.stdout, /a frame wants dictionary 77,/);
  const withoutId = spawnSync('zstd', ['-D', dictionary, '--no-dictID', '-c', samples[5]!], { timeout: 10_000 });
  assertCorrupt('zstd', withoutId.stdout, /corrupt|checksum/i);
});
