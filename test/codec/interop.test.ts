import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { need } from '../kit/require.ts';
import { deflate, inflate, sample } from './streams.ts';

const INPUTS: readonly (readonly [string, Buffer])[] = [
  ['nothing', Buffer.alloc(0)],
  ['one byte', Buffer.from('x')],
  ['zeros', Buffer.alloc(3_000_000)],
  ['a mix', sample(1_500_000)],
];

function run(tool: string, args: readonly string[], input: Uint8Array): Buffer {
  const { stdout, stderr, status } = spawnSync(tool, args, { input, timeout: 60_000, maxBuffer: 1 << 28 });
  assert.equal(status, 0, `${tool} ${args.join(' ')}: ${stderr}`);
  return stdout;
}

/** Which options of which tool make streams that differ in kind. */
const WRITERS: readonly (readonly ['gzip' | 'zstd', string, readonly string[]])[] = [
  ['gzip', 'gzip', ['-1']],
  ['gzip', 'gzip', ['-9']],
  ['gzip', 'pigz', ['-p2', '-b128']],
  ['gzip', 'pigz', ['-p2', '-i']],
  ['zstd', 'zstd', ['-1']],
  ['zstd', 'zstd', ['-19', '--no-check']],
  ['zstd', 'zstd', ['-T2', '-B1MB']],
  ['zstd', 'zstd', ['--long=27', '-T2']],
  ['zstd', 'pzstd', ['-p', '2']],
];

for (const [kind, tool, args] of WRITERS) {
  test(`Inflater(${kind}) reads what ${tool} ${args.join(' ')} writes`, (t) => {
    if (!need(t, tool)) return;
    for (const [name, plain] of INPUTS) {
      const packed = run(tool, ['-c', ...args], plain);
      assert.ok(inflate(kind, packed, { lengths: [65_536] }).equals(plain), name);
      assert.ok(inflate(kind, Buffer.concat([packed, packed])).equals(Buffer.concat([plain, plain])), name);
    }
  });
}

for (const kind of ['gzip', 'zstd'] as const) {
  test(`Deflater(${kind}) writes what ${kind} tests and unpacks`, (t) => {
    if (!need(t, kind)) return;
    for (const [name, plain] of INPUTS) {
      const packed = deflate(kind, plain, [100_000]);
      run(kind, ['-t'], packed);
      assert.ok(run(kind, ['-dc'], packed).equals(plain), name);
    }
  });

  test(`Inflater(${kind}) accepts and refuses damaged data as ${kind} does`, (t) => {
    if (!need(t, kind)) return;
    const packed = deflate(kind, sample(400));
    // One bit in every byte of the trailer and the body; the gzip header has fields that gzip ignores and zlib judges.
    for (let at = 10; at < packed.length; at += 7) {
      const damaged = Buffer.from(packed);
      damaged[at]! ^= 0x10;
      const theirs = spawnSync(kind, ['-dc'], { input: damaged, timeout: 10_000 });
      let ours: Buffer | undefined;
      try {
        ours = inflate(kind, damaged);
      } catch {
        ours = undefined;
      }
      assert.equal(ours === undefined, theirs.status !== 0, `byte ${at}: ${theirs.stderr}`);
    }
  });
}
