import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { createGunzip } from 'node:zlib';
import { SyncStream } from '../../src/codec/sync-stream.ts';
import { CODECS, warm } from '../../src/codec/warm.ts';
import { errorOf } from './streams.ts';

const CODEC = new URL('../../src/codec/', import.meta.url);

/** Runs an ES module's text in a process of its own. */
function runModule(text: string): ReturnType<typeof spawnSync> {
  return spawnSync(process.execPath, ['--input-type=module', '--expose-gc', '-e', text], {
    timeout: 30_000,
    encoding: 'utf8',
  });
}

test('SyncStream refuses a stream without the synchronous handle, and names the version of Node', () => {
  const handleless = createGunzip();
  handleless.close();
  for (const stream of [handleless, { close: () => {} }]) {
    const error = errorOf(() => new SyncStream(stream));
    assert.equal(error.code, 'unsupported');
    assert.ok(error.message.includes(process.version), error.message);
  }
});

test('Inflater and Deflater are unsupported where Node has no synchronous handle', () => {
  const { stdout, stderr } = runModule(`
    import { Transform } from 'node:stream';
    // The streams of node:zlib inherit from Transform: their constructors' assignment to _handle comes to nothing.
    Object.defineProperty(Transform.prototype, '_handle', { get: () => undefined, set: () => {} });
    const { Inflater } = await import('${CODEC}inflate.ts');
    const { Deflater } = await import('${CODEC}deflate.ts');
    for (const make of [(k) => new Inflater(k, {}), (k) => new Deflater(k, () => {}).finish()]) {
      for (const kind of ['gzip', 'zstd']) {
        try { make(kind); console.log('made'); } catch (error) { console.log(error.code, error.message.includes(process.version)); }
      }
    }
    new Inflater('none', {});
  `);
  assert.equal(stdout, 'unsupported true\n'.repeat(4), String(stderr));
});

test('SyncStream refuses a step after close and a step without room, where Node would abort', () => {
  const stream = new SyncStream(createGunzip());
  assert.equal(errorOf(() => stream.step(0, null, 0, new Uint8Array(0))).code, 'internal');
  stream.close();
  assert.equal(errorOf(() => stream.step(0, null, 0, new Uint8Array(1))).code, 'failed-precondition');
});

test('close() frees the native memory at once, not when the collector comes by', () => {
  // All codecs stay reachable: only close() can have freed what the second lot takes again.
  const { stdout, stderr } = runModule(`
    import { zstdCompressSync, gzipSync, constants } from 'node:zlib';
    import { Inflater } from '${CODEC}inflate.ts';
    const room = new Uint8Array(65536);
    const sink = { reserve: () => room, commit: () => {} };
    const noise = Buffer.from({ length: 300_000 }, 0).map(() => Math.random() * 64);
    const params = { [constants.ZSTD_c_windowLog]: 23, [constants.ZSTD_c_contentSizeFlag]: 0 };
    const kept = [];
    for (const [kind, packed] of [['gzip', gzipSync(noise)], ['zstd', zstdCompressSync(noise, { params })]]) {
      const before = process.memoryUsage.rss();
      const [first, second] = [0, 1].map(() => {
        const lot = Array.from({ length: kind === 'gzip' ? 1000 : 300 }, () => {
          const inflater = new Inflater(kind, sink);
          inflater.write(packed.subarray(0, 100_000));
          return inflater;
        });
        const held = process.memoryUsage.rss() - before;
        for (const inflater of lot) inflater.close();
        kept.push(lot);
        return held;
      });
      if (first < 2 ** 24 || second > first * 1.6) throw new Error(kind + ': ' + first + ', then ' + second + ' bytes');
    }
    console.log(kept.length, 'lots');
  `);
  assert.equal(stdout, '4 lots\n', String(stderr));
});

test('a process ends by itself with codecs open, closed and failed', () => {
  const { status, stderr } = runModule(`
    import { Inflater } from '${CODEC}inflate.ts';
    import { Deflater } from '${CODEC}deflate.ts';
    const sink = { reserve: () => new Uint8Array(100), commit: () => {} };
    for (const kind of ['gzip', 'zstd']) {
      for (let i = 0; i < 50; i++) {
        const inflater = new Inflater(kind, sink);
        if (i % 3 === 0) inflater.close();
        if (i % 3 === 1) try { inflater.write(Buffer.from('not packed at all')); } catch {}
        const deflater = new Deflater(kind, () => {});
        deflater.write(Buffer.alloc(300_000));
        if (i % 2 === 0) deflater.finish();
      }
    }
    gc();
  `);
  assert.equal(status, 0, String(stderr));
});

test('warm() passes on this Node, any number of times', () => {
  for (const codec of [...CODECS, ...CODECS]) warm(codec);
});
