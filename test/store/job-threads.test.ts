import assert from 'node:assert/strict';
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { Pool } from '../../src/base/pool.ts';
import { type DriverName, openStore } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { noise } from '../kit/images.ts';
import { directory, file, layer, ociImage } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';

// Which jobs a store has done by its threads, and by how many of them. What is looked at does its work as always.

const MIB = 1 << 20;

/** A layer whose tar has so many bytes: a header, the content, two blocks at the end. */
function layerOf(sizeBytes: number): Buffer {
  const tar = layer(file('file', noise(sizeBytes - 3 * 512, 1)));
  assert.equal(tar.length, sizeBytes);
  return tar;
}

/** The names of jobs that unpack, in groups that were begun together, each with where its bytes come from. */
function unpackingJobs(t: TestContext): { taken(): string[][] } {
  const groups: string[][] = [];
  const given = Pool.prototype.runTogether;
  t.mock.method(Pool.prototype, 'runTogether', function (this: Pool, ...[jobs, options]: Parameters<typeof given>) {
    const names = jobs
      .filter(({ name }) => name === 'apply' || name === 'inflate')
      .map(({ name, request }) => {
        const { from } = request as { readonly from: { readonly kind?: string } };
        return name === 'apply' ? `apply from ${from.kind}` : name;
      });
    if (names.length > 0) groups.push(names);
    return given.call(this, jobs, options);
  });
  return { taken: () => groups.splice(0) };
}

for (const driver of DRIVERS) {
  test(`load() unpacks a layer below 1 MiB by one job, a larger one by two, and by one where there is one thread (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    const alone = [['apply from file']];
    const beside = [['inflate', 'apply from ring']];
    for (const [threads, sizeBytes, expected] of [
      [2, MIB - 512, alone],
      [2, MIB, beside],
      [2, 9 * MIB, beside],
      [1, 9 * MIB, alone],
    ] as const) {
      await using disk = await filesystem('tmpfs', 128);
      const archive = join(disk.path, 'image.tar');
      writeFileSync(archive, ociImage([layerOf(sizeBytes)]));
      await using store = await openStore({ root: join(disk.path, 'store'), driver, threads });
      const jobs = unpackingJobs(t);
      await store.images.load(archive);
      assert.deepEqual(jobs.taken(), expected, `${threads} threads, ${sizeBytes} bytes`);
      t.mock.restoreAll();
    }
  });
}

test('load() of two large layers by two threads unpacks them side by side, by one job each', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 128);
  const archive = join(disk.path, 'image.tar');
  writeFileSync(archive, ociImage([layerOf(2 * MIB), layerOf(3 * MIB)]));
  await using store = await openStore({ root: join(disk.path, 'store'), driver: 'overlay2', threads: 2 });
  const jobs = unpackingJobs(t);
  await store.images.load(archive);
  assert.deepEqual(jobs.taken(), [['apply from file'], ['apply from file']]);
});

/** Which threads did which jobs, and how many were started. */
function threadsOf(t: TestContext): { readonly started: Worker[]; readonly jobs: { thread: number; name: string }[] } {
  const started: Worker[] = [];
  const jobs: { thread: number; name: string }[] = [];
  const onWorker = (worker: Worker): void => void started.push(worker);
  process.on('worker', onWorker);
  t.after(() => process.off('worker', onWorker));
  const given = Worker.prototype.postMessage;
  t.mock.method(Worker.prototype, 'postMessage', function (this: Worker, ...[message, ...rest]: [unknown, never]) {
    const { name } = message as { readonly name?: unknown };
    if (typeof name === 'string') jobs.push({ thread: this.threadId, name });
    return given.call(this, message, ...rest);
  });
  return { started, jobs };
}

const LOADS = 6;

/** Two for jobs, two for calls that must not wait, one each that hashes, removes, and has the database. */
const STARTED_MAX = 7;

async function loadsOneAfterAnother(t: TestContext, driver: DriverName): Promise<void> {
  await using disk = await filesystem('tmpfs', 128);
  const seen = threadsOf(t);
  await using store = await openStore({ root: join(disk.path, 'store'), driver, threads: 2 });
  for (let i = 0; i < LOADS; i++) {
    // Of its own names: what a thread wrote into the layer of its last job would be found there.
    const parts = [directory(`d${i}/`), file(`d${i}/f`, `content ${i}`)];
    await store.images.load([ociImage([layer(...parts), layer(file(`top${i}`, `${i}`))], `i${i}`)] as never);
  }
  const unpacking = seen.jobs.filter(({ name }) => name === 'apply');
  const threads = new Set(unpacking.map(({ thread }) => thread));
  assert.equal(unpacking.length, 2 * LOADS);
  assert.ok(threads.size <= 2, `${threads.size} threads unpacked`);
  assert.ok(seen.started.length <= STARTED_MAX, `${seen.started.length} threads were started`);
  // Each was jailed anew: its own layer has its files, no other, and no thread stayed in one.
  for (let i = 0; i < LOADS; i++) {
    await using view = await store.layers.view(`i${i}:1`);
    assert.deepEqual(readdirSync(view.path).toSorted(), [`d${i}`, `top${i}`]);
    assert.equal(readFileSync(join(view.path, `d${i}/f`), 'utf8'), `content ${i}`);
  }
  assert.deepEqual(
    readdirSync('/proc/self/task').filter((thread) => rootOf(thread) !== '/'),
    [],
  );
}

function rootOf(thread: string): string {
  try {
    return readlinkSync(`/proc/self/task/${thread}/root`);
  } catch {
    return '/'; // it ended meanwhile
  }
}

for (const driver of DRIVERS) {
  test(`a store starts its job threads once: they unpack image after image, each layer in a jail of its own (${driver})`, async (t) => {
    if (need(t, 'root', 'mount')) await loadsOneAfterAnother(t, driver);
  });
}
