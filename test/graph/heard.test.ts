import assert from 'node:assert/strict';
import { chmodSync, closeSync, ftruncateSync, mkdirSync, openSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fromText, toText } from '../../src/base/bytes.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import { storageDriver } from '../../src/graph/storage-driver.ts';
import { openThreads } from '../../src/graph/threads.ts';
import type { LayerId, StorageDriver } from '../../src/index.ts';
import { openHouse } from '../contract/driver-house.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';

// What the asker's own thread does (`ahead.here`) lets others be heard, also where nothing is found for long.

const GIB = 1024 ** 3;
/** Several times what a turn takes at most: the machine may have other things to do. */
const DEAF_MS = 700;

/** Others' turns while `task` goes on, and the longest time in which nobody else had one. */
async function heard(task: Promise<unknown>): Promise<{ turns: number; deafMs: number }> {
  let [turns, deafMs, last] = [0, 0, performance.now()];
  const turn = (): void => {
    turns++;
    deafMs = Math.max(deafMs, performance.now() - last);
    last = performance.now();
  };
  const timer = setInterval(turn, 1);
  try {
    await task;
    turn();
    return { turns, deafMs };
  } finally {
    clearInterval(timer);
  }
}

/** A layer that copied up all of its base without a change, and added `more` files before it. */
async function copiedUp(driver: StorageDriver, make: (at: string) => void, more: number): Promise<[LayerId, LayerId]> {
  const [base, id] = ['base', 'top'] as string[] as [LayerId, LayerId];
  await driver.create(base, { writable: true });
  {
    await using mounted = await driver.mount(base);
    make(toText(mounted.path));
  }
  await driver.create(id, { parent: base, writable: true });
  await using mounted = await driver.mount(id);
  const at = toText(mounted.path);
  for (const entry of readdirSync(at, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) for (const mode of [0o600, 0o644]) chmodSync(join(entry.parentPath, entry.name), mode);
  }
  mkdirSync(join(at, 'a'));
  for (let i = 0; i < more; i++) writeFileSync(join(at, `a/${i}`), '');
  return [base, id];
}

/** `task` by threads and by the asker's own. */
async function withBoth(
  path: string,
  task: (driver: StorageDriver, here: StorageDriver) => Promise<void>,
): Promise<void> {
  await using house = await openHouse(fromText(path), (settings) => openLayerDriver('overlay2', settings));
  await using threads = await openThreads(1);
  await using none = await openThreads(2, { here: true });
  for (const scratch of ['one', 'other']) mkdirSync(join(path, scratch));
  await task(
    storageDriver(house.driver, threads, fromText(join(path, 'one'))),
    storageDriver(house.driver, none, fromText(join(path, 'other'))),
  );
}

test('others are heard, and signals heeded, while a large file is compared', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  await withBoth(disk.path, async (driver, here) => {
    const make = (at: string): void => {
      const fd = openSync(join(at, 'large'), 'w', 0o644);
      ftruncateSync(fd, 16 * GIB);
      closeSync(fd);
    };
    const [base, id] = await copiedUp(driver, make, 1);
    for (const rendering of ['docker', 'core'] as const) {
      let list: unknown[] = [];
      const { turns, deafMs } = await heard(
        Array.fromAsync(here.changes(id, base, { rendering })).then((all) => {
          list = all.map(({ kind, path }) => `${kind} ${path}`);
        }),
      );
      assert.deepEqual(list, ['add /a', 'add /a/0']);
      assert.ok(turns > 3 && deafMs < DEAF_MS, `${turns} turns, ${deafMs} ms without one`);
    }
    const to = 'made' as string as LayerId;
    await here.create(to, { parent: base, writable: false });
    const { turns, deafMs } = await heard(here.transfer(id, to, { fresh: true }));
    assert.ok(turns > 3 && deafMs < DEAF_MS, `${turns} turns, ${deafMs} ms without one`);

    // By a thread it is given up in the middle too.
    const open: number[] = [];
    for (const one of [driver, here, driver]) {
      const giving = new AbortController();
      const reason = new Error('enough');
      let since = 0;
      setTimeout(() => {
        since = performance.now();
        giving.abort(reason);
      }, 150);
      const list = Array.fromAsync(one.changes(id, base, { rendering: 'core', signal: giving.signal }));
      await assert.rejects(list, (error) => error === reason);
      assert.ok(performance.now() - since < DEAF_MS, `${performance.now() - since} ms`);
      open.push(readdirSync('/proc/self/fd').length); // once the thread is started
    }
    assert.deepEqual(open, [open[0], open[0], open[0]]);
  });
});

test('others are heard while nothing is found among many names, also after more changes than are held back', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 1024);
  await withBoth(disk.path, async (driver, here) => {
    const make = (at: string): void => {
      for (let i = 0; i < 30_000; i++) {
        if (i % 1000 === 0) mkdirSync(join(at, `z/d${i / 1000}`), { recursive: true });
        writeFileSync(join(at, `z/d${Math.floor(i / 1000)}/f${i}`), 'x'.repeat(2000));
      }
    };
    const [base, id] = await copiedUp(driver, make, 20_500);
    let count = 0;
    const list = async (): Promise<void> => {
      for await (const _ of here.changes(id, base, { rendering: 'docker' })) count++;
    };
    const { turns, deafMs } = await heard(list());
    assert.equal(count, 20_501);
    assert.ok(turns > 3 && deafMs < DEAF_MS, `${turns} turns, ${deafMs} ms without one`);
  });
});
