import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { type Bytes, type Store, toText } from '../../src/index.ts';
import { bulk, type ImageSpec, idOf, ociTar } from '../kit/images.ts';
import { DRIVERS, withStore } from '../kit/stores.ts';
import { collect } from '../transport/archives.ts';
import { checkSoon, inTime } from './in-time.ts';
import { leavesNothing } from './unharmed.ts';

const APP: ImageSpec = {
  layers: [bulk(1, 400, 400), bulk(2, 6, 700_000), bulk(3, 300, 5000)],
  names: ['docker.io/library/app:1'],
  compress: 'gzip',
};

/** Runs `deed` with a signal that aborts after `ms`; true when it rejected, with the reason itself and in time. */
async function aborted(ms: number, deed: (signal: AbortSignal) => Promise<unknown>): Promise<boolean> {
  const stop = new AbortController();
  const reason = { why: 'enough' };
  let since = 0;
  const timer = setTimeout(() => {
    since = performance.now();
    stop.abort(reason);
  }, ms);
  try {
    await deed(stop.signal);
    return false;
  } catch (error) {
    if (error !== reason) throw error;
    checkSoon(performance.now() - since, `after ${ms} ms: it`);
    return true;
  } finally {
    clearTimeout(timer);
  }
}

/** How long `deed` takes undisturbed, then `deed` again and again with aborts all over that time: how many were in time. */
async function abortEverywhere(
  store: Store,
  times: number,
  deed: (signal?: AbortSignal) => Promise<unknown>,
  takeBack: () => Promise<unknown>,
): Promise<number> {
  await deed(); // the first one starts threads
  await takeBack();
  const from = performance.now();
  await deed();
  const whole = performance.now() - from;
  await takeBack();
  let rejected = 0;
  for (let i = 0; i < times; i++) {
    const ms = (whole * 1.1 * (i + Math.random())) / times;
    const once = async (signal: AbortSignal): Promise<unknown> => deed(signal);
    const stopped = Promise.withResolvers<boolean>();
    const running = async (): Promise<unknown> => {
      stopped.resolve(await aborted(ms, once));
      if (await stopped.promise) throw new Error('stopped');
      await takeBack();
      throw new Error('whole');
    };
    await leavesNothing(
      store,
      running,
      (error) => {
        if (!/^(stopped|whole)$/.test((error as Error).message)) throw error;
        return true;
      },
      `after ${ms} ms`,
    );
    if (await stopped.promise) rejected++;
  }
  return rejected;
}

for (const driver of DRIVERS) {
  test(`an abort of load() at any moment rejects with its reason within a second and leaves nothing (${driver})`, (t) =>
    inTime(async () => {
      await withStore(t, driver, async (store, path) => {
        const archive = ociTar(APP);
        writeFileSync(join(path, 'app.tar'), archive);
        writeFileSync(join(path, 'app.tar.gz'), gzipSync(archive, { level: 1 }));
        const sources: readonly (() => Bytes)[] = [
          () => join(path, 'app.tar'),
          () => join(path, 'app.tar.gz'),
          async function* () {
            for (let at = 0; at < archive.length; at += 100_000) {
              yield archive.subarray(at, at + 100_000);
              await sleep(1);
            }
          } as () => Bytes,
        ];
        for (const source of sources) {
          const load = (signal?: AbortSignal): Promise<unknown> =>
            store.images.load(source(), signal === undefined ? {} : { signal });
          assert.ok((await abortEverywhere(store, 8, load, () => store.images.remove('app:1'))) >= 2);
        }
        assert.equal((await store.images.load(join(path, 'app.tar')))[0]?.id, idOf(APP));
        assert.deepEqual(await store.upkeep.check({ deep: true }), []);
      });
    }));

  test(`an abort of create(), commit(), save(), changes(), diff() and check() leaves nothing (${driver})`, (t) =>
    inTime(async () => {
      await withStore(t, driver, async (store, path) => {
        writeFileSync(join(path, 'app.tar'), ociTar(APP));
        await store.images.load(join(path, 'app.tar'));
        const work = await store.layers.create('app:1', { name: 'work' });
        {
          await using mounted = await work.mount();
          for (let i = 0; i < 200; i++) writeFileSync(join(toText(mounted.path), `new-${i}`), Buffer.alloc(20_000, i));
        }
        const signalled = (signal?: AbortSignal): { signal?: AbortSignal } => (signal === undefined ? {} : { signal });
        const commit = async (signal?: AbortSignal): Promise<unknown> => work.commit('new:1', signalled(signal));
        assert.ok((await abortEverywhere(store, 8, commit, () => store.images.remove('new:1'))) >= 2);
        const create = async (signal?: AbortSignal): Promise<unknown> =>
          store.layers.create('app:1', { name: 'other', ...signalled(signal) });
        await abortEverywhere(store, 3, create, () => store.layers.remove('other'));
        const nothing = async (): Promise<void> => {};
        const streams: readonly ((signal?: AbortSignal) => Promise<unknown>)[] = [
          (signal) => collect(store.images.save(['app:1'], signalled(signal))),
          (signal) => collect(work.diff(signalled(signal))),
          (signal) => collect(store.images.export('work', signalled(signal))),
          (signal) => store.upkeep.check({ deep: true, ...signalled(signal) }),
          async (signal) => {
            for await (const _ of work.changes(signalled(signal))) {
            }
          },
        ];
        let inTime = 0;
        for (const stream of streams) inTime += await abortEverywhere(store, 4, stream, nothing);
        assert.ok(inTime >= 4, `${inTime}`);
        const before = descriptors();
        const aborts = 24;
        for (let i = 0; i < aborts; i++) await aborted(2 * i, (signal) => commit(signal));
        await store.images.remove('new:1').catch(() => {});
        // A thread that was not there before has some five of its own, and stays.
        assert.ok(descriptors() < before + aborts, `${descriptors()} descriptors, ${before} before`);
      });
    }));
}

test('an abort ends a load() that waits for a pipe or a stream from which nothing comes', (t) =>
  inTime(async () => {
    await withStore(t, 'overlay2', async (store, path) => {
      const fifo = join(path, 'fifo');
      execFileSync('mkfifo', [fifo]);
      const silent = async function* (): AsyncGenerator<Uint8Array> {
        yield ociTar(APP).subarray(0, 100_000);
        await new Promise(() => {});
      };
      // More often than libuv has threads: none of them may stay behind.
      const sources = [...Array.from({ length: 6 }, () => () => fifo as Bytes), silent, () => new ReadableStream()];
      for (const source of sources) {
        const stopped = async (): Promise<unknown> => {
          assert.equal(await aborted(30, (signal) => store.images.load(source(), { signal })), true);
          throw new Error('stopped');
        };
        await leavesNothing(store, stopped, (error) => (error as Error).message === 'stopped');
      }
      execFileSync('sh', ['-c', `(exec 3> "$0"; sleep 0.3) & cat "$0"`, fifo], { timeout: 5000 });
    });
  }));

test('streams that are read halfway keep no other job waiting, and leave no job behind', async (t) => {
  const options = { threads: 2 };
  await withStore(
    t,
    'overlay2',
    async (store, path) => {
      writeFileSync(join(path, 'app.tar'), ociTar({ ...APP, layers: [bulk(4, 12, 1 << 20)] }));
      await store.images.load(join(path, 'app.tar'));
      const reading = Array.from({ length: 5 }, () => store.images.save(['app:1'])[Symbol.asyncIterator]());
      for (const one of reading) for (let i = 0; i < 8; i++) await one.next();
      await store.images.remove('app:1', { force: true });
      await store.images.load(join(path, 'app.tar'));
      const work = await store.layers.create('app:1');
      await work.commit('other:1');
      for (const one of reading) await one.return?.();
      assert.deepEqual(await store.upkeep.check({ deep: true }), []);
      await sleep(50);
      const jobs = readdirSync('/proc/self/task').length;
      assert.ok(jobs < 40, `${jobs} threads`);
    },
    options,
  );
});

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}
