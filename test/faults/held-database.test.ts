import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import { isStorageError, openStore, type Store, toText } from '../../src/index.ts';
import { waitingOnInput } from '../doors/run-cli.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, type ImageSpec, idOf, ociTar } from '../kit/images.ts';
import { need } from '../kit/require.ts';
import { leavesNoThread } from './nothing-left.ts';
import { leavesNothing } from './unharmed.ts';

const APP: ImageSpec = { layers: [bulk(1, 20, 1000)], names: ['docker.io/library/app:1'] };
const WITHIN_MS = 1000;

/** Another process that writes the store's database, until it is disposed. */
function holding(root: string): Disposable {
  const db = new DatabaseSync(join(root, 'store.db'));
  db.exec('BEGIN IMMEDIATE');
  return {
    [Symbol.dispose]() {
      db.exec('ROLLBACK');
      db.close();
    },
  };
}

async function within(ms: number, deed: () => Promise<unknown>): Promise<void> {
  const from = performance.now();
  try {
    await deed();
  } finally {
    const took = performance.now() - from;
    assert.ok(took < ms, `it took ${took} ms`);
  }
}

for (const brief of [false, true]) {
  const how = brief ? 'in its own thread' : 'by a thread';
  test(`calls that wait for a database that others hold end with their signal, and the event loop goes on (${how})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 256);
    const root = join(disk.path, 'store');
    const archive = join(disk.path, 'app.tar');
    writeFileSync(archive, ociTar(APP));
    await using store = await openStore({ root, brief, threads: 2 });
    await store.images.load(archive);
    const work = await store.layers.create('app:1', { name: 'work' });
    {
      await using mounted = await work.mount();
      writeFileSync(join(toText(mounted.path), 'new'), 'new');
    }
    const reason = new Error('enough');
    const calls: Record<string, (signal: AbortSignal) => Promise<unknown>> = {
      create: (signal) => store.layers.create('app:1', { signal }),
      commit: (signal) => work.commit('new:1', { signal }),
      load: (signal) => store.images.load(archive, { signal }),
    };
    for (const [name, call] of Object.entries(calls)) {
      await t.test(name, async () => {
        const ended = async (): Promise<void> => {
          using _held = holding(root);
          const stop = new AbortController();
          const result = call(stop.signal);
          const longest = await longestWait(300);
          assert.ok(longest < 100, `the event loop stood for ${longest} ms`);
          stop.abort(reason);
          await within(WITHIN_MS, () => result);
        };
        await leavesNothing(store, ended, (error) => error === reason, name);
      });
    }
  });
}

/** Of the next `ms`: how long a timer of 5 ms was kept waiting at most. */
async function longestWait(ms: number): Promise<number> {
  let longest = 0;
  const end = performance.now() + ms;
  for (let at = performance.now(); at < end; at = performance.now()) {
    await sleep(5);
    longest = Math.max(longest, performance.now() - at - 5);
  }
  return longest;
}

test('a patience without a number is the usual one: closing ends, and so do calls', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  await using store = await openStore({ root, patience: { ms: undefined } as object });
  using _held = holding(root);
  await within(15_000, () => assert.rejects(store.layers.create(), (error) => isStorageError(error, 'busy')));
});

test('a store gives up after the patience it was opened with, and works on', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  await using store = await openStore({ root, patience: { ms: 200 } });
  {
    using _held = holding(root);
    await within(WITHIN_MS, () => assert.rejects(store.layers.create(), (error) => isStorageError(error, 'busy')));
  }
  await store.layers.create(undefined, { name: 'now' });
  assert.deepEqual(await store.upkeep.check(), []);
});

test('a command that waits for a database that others hold ends at Ctrl-C, with 130', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  await using store = await openStore({ root });
  await store.layers.create(undefined, { name: 'old' });
  for (const args of [['create'], ['rm', 'old']]) {
    using _held = holding(root);
    const command = waitingOnInput(root, args);
    const early = await Promise.race([command.ended, sleep(700)]);
    assert.equal(early, undefined, `${args} did not wait: ${early?.stderr}`);
    command.signal('SIGINT');
    await within(WITHIN_MS, async () => {
      assert.deepEqual(await command.ended, { status: 130, stdout: '', stderr: 'layerstore: interrupted\n' });
    });
  }
  assert.deepEqual(
    (await store.layers.list()).map(({ name }) => name),
    ['old'],
  );
  await store.upkeep.gc({ wait: true });
  assert.deepEqual(await store.upkeep.check(), []);
});

test('a store whose database thread ends says so at once, closes, and can be opened again', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 256);
  const root = join(disk.path, 'store');
  const archive = join(disk.path, 'app.tar');
  writeFileSync(archive, ociTar(APP));
  const dies = async (during: (store: Store) => Promise<unknown>): Promise<void> => {
    await leavesNoThread(async () => {
      const made = Promise.withResolvers<Worker>();
      process.once('worker', made.resolve);
      const store = await openStore({ root, threads: 2 });
      const database = await made.promise; // the first thread that a store starts
      const deed = during(store);
      const ended = assert.rejects(deed, (error) => {
        assert.ok(isStorageError(error), String(error));
        assert.match(error.message, /^Cannot ask the database of the store: its thread ended/);
        return true;
      });
      await sleep(20);
      await database.terminate();
      await within(WITHIN_MS, () => ended);
      await within(WITHIN_MS, () => assert.rejects(store.images.list(), /its thread ended/));
      await within(WITHIN_MS, async () => store[Symbol.asyncDispose]());
    });
    await using again = await openStore({ root, threads: 2 });
    await again.upkeep.gc({ wait: true });
    assert.deepEqual(await again.upkeep.counts(), { images: 0, layers: 0, writable: 0 });
    assert.deepEqual(await again.upkeep.check({ deep: true }), []);
    const [image] = await again.images.load(archive);
    assert.equal(image?.id, idOf(APP));
    await again.images.remove('app:1');
  };
  await dies(async (store) => {
    using _held = holding(root);
    await store.images.load(archive);
  });
  await dies(async (store) => {
    for (;;) {
      await store.images.load(archive);
      await store.images.remove('app:1');
    }
  });
});
