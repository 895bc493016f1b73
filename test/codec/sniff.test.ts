import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { SNIFF_BYTES, sniff } from '../../src/codec/sniff.ts';
import { need } from '../kit/require.ts';
import { deflate, errorOf } from './streams.ts';

const head = (bytes: Uint8Array): Uint8Array => bytes.subarray(0, SNIFF_BYTES);

test('sniff() knows gzip, zstd and zstd behind any skippable frame', () => {
  assert.equal(sniff(head(deflate('gzip', Buffer.from('x')))), 'gzip');
  assert.equal(sniff(head(deflate('zstd', Buffer.from('x')))), 'zstd');
  for (let low = 0; low < 16; low++) assert.equal(sniff(Buffer.from([0x50 + low, 0x2a, 0x4d, 0x18, 0])), 'zstd');
  assert.equal(sniff(Buffer.from([0x60, 0x2a, 0x4d, 0x18, 0])), 'none');
});

test('sniff() takes no bytes, too few bytes and what it does not know as none', () => {
  for (const bytes of [[], [0x1f], [0x28, 0xb5, 0x2f], [0xfd, 0x37, 0x7a], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]]) {
    assert.equal(sniff(Uint8Array.from(bytes)), 'none');
  }
});

test('sniff() takes a tar whose first name begins like a magic number as none', () => {
  for (const name of ['BZh9.txt\0\0', 'BZhello\0\0\0', 'LZIP\0\0\0\0\0\0', 'LZIPfile\0\0', './\0\0\0\0\0\0\0\0']) {
    assert.equal(sniff(Buffer.from(name, 'latin1')), 'none', name);
  }
});

test('sniff() refuses other compressions as unsupported, by name', () => {
  const table: readonly (readonly [string, string])[] = [
    ['xz', 'fd377a585a00'],
    ['bzip2', '425a6839314159265359'],
    ['bzip2', '425a6831177245385090'],
    ['lz4', '04224d18'],
    ['lz4', '02214c18'],
    ['lzip', '4c5a495001'],
    ['compress \\(\\.Z\\)', '1f9d90'],
  ];
  for (const [name, hex] of table) {
    const error = errorOf(() => sniff(Buffer.from(hex, 'hex')));
    assert.equal(error.code, 'unsupported');
    assert.match(error.message, new RegExp(`compressed with ${name};`));
  }
});

for (const tool of ['xz', 'bzip2', 'lz4', 'gzip', 'zstd']) {
  test(`sniff() knows what ${tool} itself writes, empty input included`, (t) => {
    if (!need(t, tool)) return;
    for (const input of ['', 'layerstore']) {
      const { stdout, status } = spawnSync(tool, ['-c'], { input, timeout: 10_000 });
      assert.equal(status, 0);
      if (tool === 'gzip' || tool === 'zstd') assert.equal(sniff(head(stdout)), tool);
      else assert.match(errorOf(() => sniff(head(stdout))).message, new RegExp(tool));
    }
  });
}
