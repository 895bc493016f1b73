import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { crc32, deflateRawSync, constants as zlib } from 'node:zlib';
import fc from 'fast-check';
import { isStorageError } from '../../src/base/errors.ts';
import { Pool } from '../../src/base/pool.ts';
import { abortGzip, GZIP_BLOCK_BYTES, type GzipMemory, gzipMemory, resetGzip } from '../../src/codec/gzip.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import type { DeflateRequest } from './deflate-thread.ts';
import { deflate, inflate, sample } from './streams.ts';

const ENTRY = new URL('deflate-thread.ts', import.meta.url);
const BLOCK = GZIP_BLOCK_BYTES;

function together(pool: Pool, threads: number, request: DeflateRequest, memory: GzipMemory): Promise<Buffer> {
  const help = Array.from({ length: threads - 1 }, () => ({ name: 'help', request: { memory } }));
  const jobs = [{ name: 'deflate', request }, ...help];
  return pool.runTogether(jobs, { giveUp: () => abortGzip(memory) }).then(([bytes]) => Buffer.from(bytes as Buffer));
}

/** pigz's scheme, put together from what Node documents. */
function expected(plain: Buffer): Buffer {
  const blocks = Math.max(1, Math.ceil(plain.length / BLOCK));
  const parts = Array.from({ length: blocks }, (_, i) => {
    const dictionary = plain.subarray(Math.max(0, i * BLOCK - 32_768), i * BLOCK);
    const finishFlush = i === blocks - 1 ? zlib.Z_FINISH : zlib.Z_SYNC_FLUSH;
    const more = i === 0 ? {} : { dictionary };
    // Room for all of it: where output ends with the room, zlib may flush twice (zlib.h, deflate()).
    const options = { level: 6, finishFlush, chunkSize: 2 * BLOCK, ...more };
    return deflateRawSync(plain.subarray(i * BLOCK, (i + 1) * BLOCK), options);
  });
  const trailer = Buffer.alloc(8);
  trailer.writeUInt32LE(crc32(plain), 0);
  trailer.writeUInt32LE(plain.length, 4);
  return Buffer.concat([Buffer.from('1f8b08000000000000ff', 'hex'), ...parts, trailer]);
}

test('Deflater(gzip) gives the same bytes with 1, 2, 3 and 4 threads, whatever the chunking: blocks in one member', async () => {
  await using dir = await scratch('gzip');
  await using pool = new Pool(ENTRY, 4);
  const path = join(dir.path, 'plain');
  const memories = [2, 3, 4].map((threads) => gzipMemory(threads)); // used again and again, as a store does
  const sizes = fc.oneof(
    fc.constantFrom(0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 7 * BLOCK + 5),
    fc.integer({ min: 0, max: 6 * BLOCK }),
  );
  const lengths = fc.array(fc.integer({ min: 20, max: 3 * BLOCK }), { minLength: 1, maxLength: 5 });
  await fc.assert(
    fc.asyncProperty(sizes, lengths, fc.integer({ min: 1, max: 1000 }), async (size, chunks, seed) => {
      const plain = sample(size, seed);
      writeFileSync(path, plain);
      const alone = deflate('gzip', plain, chunks);
      assert.ok(alone.equals(expected(plain)), 'one thread');
      for (const [i, memory] of memories.entries()) {
        const packed = await together(pool, i + 2, { memory, path, lengths: chunks }, memory);
        assert.ok(packed.equals(alone), `${i + 2} threads`);
        resetGzip(memory);
      }
      assert.ok(inflate('gzip', alone).equals(plain));
    }),
    { numRuns: 20, examples: [[BLOCK + 1, [30], 450]] },
  );
});

test('Deflater(gzip) whose writer, helper or caller gives up ends all its threads at once, and the memory serves again', async () => {
  await using dir = await scratch('gzip');
  await using pool = new Pool(ENTRY, 3);
  const path = join(dir.path, 'plain');
  const plain = sample(40 * BLOCK);
  writeFileSync(path, plain);
  const memory = gzipMemory(3);
  const request = { memory, path, lengths: [100_000] };
  const jobs = (first: DeflateRequest, failing: boolean): { name: string; request: unknown }[] => [
    { name: 'deflate', request: first },
    { name: 'help', request: { memory } },
    { name: 'help', request: { memory, failing } },
  ];
  const options = { giveUp: () => abortGzip(memory) };
  await assert.rejects(pool.runTogether(jobs({ ...request, failAfter: 3 * BLOCK }, false), options), {
    message: 'the disk is full',
  });
  resetGzip(memory);
  await assert.rejects(pool.runTogether(jobs(request, true), options), { message: 'no memory' });
  resetGzip(memory);
  const stop = new AbortController();
  const running = pool.runTogether(jobs(request, false), { ...options, signal: stop.signal });
  setTimeout(() => stop.abort(new Error('enough')), 50);
  const since = performance.now();
  await assert.rejects(running, { message: 'enough' });
  assert.ok(performance.now() - since < 1000, `${performance.now() - since} ms`);
  resetGzip(memory);
  assert.ok((await together(pool, 3, request, memory)).equals(deflate('gzip', plain)));
});

test('abortGzip() throws out a thread that waits for others, and one that comes later', async () => {
  await using pool = new Pool(ENTRY, 1);
  const memory = gzipMemory(2);
  const waiting = pool.run({ name: 'help', request: { memory } });
  setTimeout(() => abortGzip(memory), 20);
  await assert.rejects(waiting, (error) => isStorageError(error, 'canceled'));
  await assert.rejects(pool.run({ name: 'help', request: { memory } }), (error) => isStorageError(error, 'canceled'));
});

const READERS: readonly (readonly [string, readonly string[]])[] = [
  ['gzip', ['-dc']],
  ['pigz', ['-dc', '-p2']],
  ['python3', ['-c', 'import sys,gzip,shutil; shutil.copyfileobj(gzip.open(sys.stdin.buffer), sys.stdout.buffer)']],
  ['bsdcat', []],
];

for (const [tool, args] of READERS) {
  test(`Deflater(gzip) writes one member of several blocks that ${tool} reads`, (t) => {
    if (!need(t, tool)) return;
    for (const size of [0, BLOCK, 5 * BLOCK + 17]) {
      const plain = sample(size);
      const input = deflate('gzip', plain);
      const { status, stdout, stderr } = spawnSync(tool, args, { input, maxBuffer: 1 << 26, timeout: 60_000 });
      assert.equal(status, 0, String(stderr));
      assert.ok(stdout.equals(plain), `${size}`);
    }
  });
}

test("Deflater(gzip) writes one member of several blocks that Go's compress/gzip reads, and nothing after it", async (t) => {
  if (!need(t, 'go')) return;
  await using dir = await scratch('gzip');
  const source = join(dir.path, 'main.go');
  writeFileSync(
    source,
    'package main\nimport ("bufio"; "compress/gzip"; "io"; "os")\nfunc main() {\n\tin := bufio.NewReader(os.Stdin)\n' +
      '\tr, err := gzip.NewReader(in)\n\tif err != nil { panic(err) }\n\tr.Multistream(false)\n' +
      '\tif _, err := io.Copy(os.Stdout, r); err != nil { panic(err) }\n' +
      '\tif _, err := in.ReadByte(); err != io.EOF { panic("more than one member") }\n}\n',
  );
  const env = { ...process.env, GOCACHE: join(dir.path, 'cache'), GOFLAGS: '-mod=mod', GOTOOLCHAIN: 'local' };
  const binary = join(dir.path, 'read');
  const built = spawnSync('go', ['build', '-o', binary, source], { env, cwd: dir.path, timeout: 120_000 });
  assert.equal(built.status, 0, String(built.stderr));
  for (const size of [0, BLOCK, 5 * BLOCK + 17]) {
    const plain = sample(size);
    const { status, stdout, stderr } = spawnSync(binary, { input: deflate('gzip', plain), maxBuffer: 1 << 26 });
    assert.equal(status, 0, String(stderr));
    assert.ok(stdout.equals(plain), `${size}`);
  }
});

test('Deflater(zstd) gives the same bytes with 1, 2, 3 and 4 workers, whatever the chunking, and zstd reads them', (t) => {
  for (const size of [0, 1, 300_000, 9_000_001]) {
    const plain = sample(size);
    const whole = deflate('zstd', plain, [Infinity], { workers: 1 });
    for (const workers of [1, 2, 3, 4]) {
      assert.ok(deflate('zstd', plain, [70_001, 3_000_000], { workers }).equals(whole), `${size}, ${workers} workers`);
    }
    assert.ok(inflate('zstd', whole).equals(plain));
    assert.equal(whole.indexOf(Buffer.from([0x28, 0xb5, 0x2f, 0xfd]), 1), -1, 'one frame');
    if (!need(t, 'zstd')) return;
    const { status, stdout } = spawnSync('zstd', ['-dc'], { input: whole, maxBuffer: 1 << 26 });
    assert.equal(status, 0);
    assert.ok(stdout.equals(plain));
  }
});
