import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isStorageError } from '../../src/base/errors.ts';
import { type TarEntry, TarLexer } from '../../src/tar/index.ts';
import { goldens } from './goldens.ts';

const SECONDS = Number(process.env['FUZZ_SECONDS'] ?? 3);
const SEED = Number(process.env['FUZZ_SEED'] ?? 20_260_701);

/** Numbers below `n`, the same for the same seed (mulberry32). */
function dice(seed: number): (n: number) => number {
  let state = seed;
  return (n) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % n;
  };
}

/** Makes the checksum of the block at `at` right again, so that a mutation is looked at further. */
function mend(tar: Buffer, at: number): void {
  tar.fill(0x20, at + 148, at + 156);
  let sum = 0;
  for (let i = at; i < at + 512; i++) sum += tar[i]!;
  tar.write(`${sum.toString(8).padStart(6, '0')}\0 `, at + 148, 'latin1');
}

const INTERESTING = [0, 0x20, 0x0a, 0x2d, 0x30, 0x37, 0x39, 0x3d, 0x2f, 0x80, 0xff, 0x4c, 0x53, 0x67, 0x78];

function mutate(golden: Buffer, roll: (n: number) => number): Buffer {
  let tar = Buffer.from(golden);
  for (let times = 1 + roll(4); times > 0; times--) {
    if (tar.length < 1024) break;
    const block = roll(Math.floor(tar.length / 512)) * 512;
    switch (roll(6)) {
      case 0: // a byte of a header, checksum mended
      case 1:
        tar[block + roll(512)] = INTERESTING[roll(INTERESTING.length)]!;
        mend(tar, block);
        break;
      case 2: // any byte
        tar[roll(tar.length)] = roll(256);
        break;
      case 3: // cut
        tar = tar.subarray(0, roll(tar.length));
        break;
      case 4: // a block twice
        tar = Buffer.concat([tar.subarray(0, block + 512), tar.subarray(block)]);
        break;
      default: // a block less
        tar = Buffer.concat([tar.subarray(0, block), tar.subarray(block + 512)]);
    }
  }
  return tar;
}

/** What every entry promises, whatever the archive. */
function plausible(entry: TarEntry): void {
  assert.ok(entry.uid <= 0xffff_fffe && entry.gid <= 0xffff_fffe && entry.mode <= 0o7777);
  assert.ok(entry.devMajor <= 0xfff && entry.devMinor <= 0xfffff);
  assert.ok(Number.isSafeInteger(entry.sizeBytes) && (entry.type === 'file' || entry.sizeBytes === 0));
  assert.ok(!entry.name.includes('\0') && !entry.linkName.includes('\0'));
  let end = 0;
  for (const { offset, length } of entry.sparse ?? []) {
    assert.ok(offset >= end && length > 0);
    end = offset + length;
  }
  assert.ok(end <= entry.sizeBytes);
}

test(`TarLexer answers mutated archives with corrupt or with all their bytes (seed ${SEED}, ${SECONDS} s)`, (t) => {
  const roll = dice(SEED);
  const all = goldens();
  const until = performance.now() + SECONDS * 1000;
  const before = process.memoryUsage().rss;
  let runs = 0;
  let whole = 0;
  while (performance.now() < until) {
    const golden = all[roll(all.length)]!;
    const tar = mutate(golden.tar, roll);
    const out = Buffer.alloc(tar.length);
    let length = 0;
    const take = (bytes: Uint8Array): void => {
      out.set(bytes, length);
      length += bytes.length;
    };
    const lexer = new TarLexer({ raw: take, data: take, entry: plausible, end: () => {} });
    const size = 1 + roll(4096);
    try {
      for (let at = 0; at < tar.length; at += size) lexer.write(tar.subarray(at, at + size));
      lexer.finish();
      assert.ok(length === tar.length && out.equals(tar), `run ${runs} of ${golden.name}: the parts are not the input`);
      whole++;
    } catch (error) {
      if (!isStorageError(error, 'corrupt')) {
        throw new Error(`run ${runs} of ${golden.name}, seed ${SEED}: ${String(error)}`, { cause: error });
      }
    }
    runs++;
  }
  const grown = process.memoryUsage().rss - before;
  assert.ok(grown < 400 << 20, `memory grew by ${grown >> 20} MiB`);
  assert.ok(whole > 0 && whole < runs, 'the mutations say nothing');
  t.diagnostic(`${runs} archives, ${whole} of them read to their end`);
});
