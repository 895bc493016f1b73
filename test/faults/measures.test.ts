import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, openSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { digestOf } from '../../src/base/digest.ts';
import { openStore } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, dockerTar, ociTar } from '../kit/images.ts';
import { directory, file, hardlink, layer, type Piece } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';

const MEASURE_DELAY = new URL('measure-delay.ts', import.meta.url).pathname;
const MEASURE_APPLY = new URL('measure-apply.ts', import.meta.url).pathname;
const CHILD = new URL('measure-child.ts', import.meta.url).pathname;

test('after a load the store is at most 1.05 of the unpacked trees and the records (invariant 4)', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4')) return;
  for (const kind of ['tmpfs', 'ext4'] as const) {
    await using disk = await filesystem(kind, 192);
    const root = join(disk.path, 'store');
    {
      await using store = await openStore({ root, driver: 'overlay2', threads: 2 });
      const archive = ociTar({
        layers: [bulk(1, 800, 6000), bulk(2, 20, 600_000), bulk(3, 400, 300)],
        compress: 'gzip',
      });
      await store.images.load(
        (async function* () {
          yield archive;
        })(),
      );
      for (const { exact } of await store.layers.stored()) assert.equal(exact.holds, true);
    }
    const kib = (...paths: readonly string[]): number =>
      Number(execFileSync('du', ['-skc', ...paths], { encoding: 'utf8' }).match(/(\d+)\ttotal/)?.[1]);
    const layers = execFileSync('sh', ['-c', 'ls -d "$0"/overlay2/*/diff', root], { encoding: 'utf8' })
      .trim()
      .split('\n');
    const [whole, trees, records] = [kib(root), kib(...layers), kib(join(root, 'records'))];
    assert.ok(
      whole <= 1.05 * (trees + records),
      `${kind}: ${whole} KiB, of which ${trees} trees and ${records} records`,
    );
    assert.ok(records <= trees / 20, `${kind}: ${records} KiB of records for ${trees} of trees`);
  }
});

test('a load of 300 MB takes less than 300 MiB of memory, from a file, compressed twice over, and from one huge file', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 2048);
  const huge = join(disk.path, 'huge.tar');
  writeHuge(huge, 300);
  const many = join(disk.path, 'many.tar');
  const fd = openSync(many, 'w');
  writeSync(fd, dockerTar({ layers: Array.from({ length: 6 }, (_, i) => bulk(i, 1000, 8000)), compress: 'gzip' }));
  closeSync(fd);
  for (const archive of [huge, many]) {
    const run = [CHILD, join(disk.path, `store-${statSync(archive).size}`), archive];
    const { status, stdout, stderr } = spawnSync(process.execPath, run, { encoding: 'utf8', timeout: 60_000 });
    assert.deepEqual([status, stderr], [0, '']);
    assert.ok(Number(stdout) < 300, `${stdout.trim()} MiB for ${archive}`);
  }
});

test('a directory and a hard link of a layer take at most 200 bytes of memory more than a file (invariant 10)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 1024);
  const entries = 200_000;
  const kinds: Record<string, (n: string) => Piece[]> = {
    files: (n) => [file(`${n}-a`), file(`${n}-b`)],
    directories: (n) => [directory(`${n}-a`), directory(`${n}-b`)],
    links: (n) => [file(`${n}-a`), hardlink(`${n}-b`, `${n}-a`)],
  };
  const peaks: number[] = [];
  for (const [kind, make] of Object.entries(kinds)) {
    const tar = join(disk.path, `${kind}.tar`);
    const fd = openSync(tar, 'w');
    for (let i = 0; i < entries / 2; i++) for (const piece of make(`d${i >> 10}/name-${i}`)) writeSync(fd, piece);
    writeSync(fd, layer());
    closeSync(fd);
    const run = [MEASURE_APPLY, join(disk.path, kind), tar];
    const { status, stdout, stderr } = spawnSync(process.execPath, run, { encoding: 'utf8', timeout: 120_000 });
    assert.deepEqual([status, stderr], [0, '']);
    peaks.push(Number(stdout));
    rmSync(join(disk.path, kind), { recursive: true });
    rmSync(tar);
  }
  const [files = 0, directories = 0, links = 0] = peaks;
  t.diagnostic(
    `${(directories - files) / entries} bytes more for a directory, ${(links - files) / (entries / 2)} for a link`,
  );
  assert.ok(directories - files < 200 * entries, `${peaks}`);
  assert.ok(links - files < (200 * entries) / 2, `${peaks}`);
});

test('the main thread stays free while a store loads, compares, packs, commits, saves and compresses', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  // One job thread fewer than the cores of the smallest machine, and as many as there are: then the kernel lets the main
  // thread wait for its turn, too.
  await using disk = await filesystem('tmpfs', 1024);
  const archive = join(disk.path, 'image.tar');
  writeFileSync(
    archive,
    ociTar({ layers: [bulk(1, 6000, 4000), bulk(2, 40, 1_000_000), bulk(3, 3000, 500)], compress: 'gzip' }),
  );
  const cores = availableParallelism();
  for (const threads of cores < 2 ? [1] : [1, cores]) {
    // Others who use the machine only ever add to a delay: the least of four runs is ours.
    const least = new Map<string, Delay>();
    for (let tries = 0; tries < 4 && (tries === 0 || ![...least.values()].every(isFree)); tries++) {
      const run = [MEASURE_DELAY, join(disk.path, 'store'), archive, `${threads}`];
      const { status, stdout, stderr } = spawnSync(process.execPath, run, { encoding: 'utf8', timeout: 120_000 });
      assert.deepEqual([status, stderr], [0, '']);
      t.diagnostic(`${threads} threads: ${stdout.trim()}`);
      rmSync(join(disk.path, 'store'), { recursive: true });
      const steps = Object.entries(JSON.parse(stdout) as Record<string, Delay>);
      assert.equal(steps.length, 7);
      for (const [step, delay] of steps) {
        const { p99Ms, maxMs } = least.get(step) ?? delay;
        least.set(step, { p99Ms: Math.min(p99Ms, delay.p99Ms), maxMs: Math.min(maxMs, delay.maxMs) });
      }
    }
    for (const [step, delay] of least) {
      assert.ok(isFree(delay), `${step} with ${threads} threads: ${delay.p99Ms} and ${delay.maxMs} ms`);
    }
  }
});

/** What the event loop waited. */
interface Delay {
  readonly p99Ms: number;
  readonly maxMs: number;
}

function isFree({ p99Ms, maxMs }: Delay): boolean {
  return p99Ms < 20 && maxMs < 100;
}

/** A docker archive of one gzip layer, with one file of that many MiB. */
function writeHuge(path: string, mib: number): void {
  const piece = Buffer.alloc(1 << 20);
  for (let i = 0; i < piece.length; i++) piece[i] = (i * 2654435761) >>> 13;
  const content = Buffer.alloc(mib << 20);
  for (let i = 0; i < mib; i++) piece.copy(content, i << 20);
  const tar = layer(file('huge', content));
  const blob = gzipSync(tar, { level: 1 });
  const config = JSON.stringify({
    os: 'linux',
    architecture: 'amd64',
    rootfs: { type: 'layers', diff_ids: [digestOf(tar)] },
  });
  const manifest = JSON.stringify([{ Config: 'c', RepoTags: [], Layers: ['l'] }]);
  const fd = openSync(path, 'w');
  for (const part of [
    layer(file('manifest.json', manifest), file('c', config)).subarray(0, -1024),
    layer(file('l', blob)),
  ]) {
    writeSync(fd, part);
  }
  closeSync(fd);
}
