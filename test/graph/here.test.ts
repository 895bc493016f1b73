import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readFileSync, readlinkSync, renameSync, rmSync, writeFileSync } from 'node:fs';
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
import { DRIVERS } from '../kit/stores.ts';

// Lists that the asker's own thread makes (`ahead.here`), as the command line does. Not here: law/library.test.ts.

const MODE = { redirect: 'on', metacopy: 'on' } as const;

/** What this thread sees of the machine, and leaves for what it makes. */
function standing(at: string): unknown[] {
  const links = ['ns/mnt', 'root', 'cwd'].map((name) => readlinkSync(`/proc/thread-self/${name}`));
  const umask = /^Umask:.*$/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[0];
  const mounts = readFileSync('/proc/thread-self/mountinfo', 'utf8').split('\n');
  // Other tests mount in the same namespace.
  return [...links, umask, mounts.filter((line) => line.includes(at))];
}

async function layerIn(driver: StorageDriver, mode: typeof MODE | undefined): Promise<[LayerId, LayerId]> {
  const [base, id] = ['base', 'top'] as string[] as LayerId[] as [LayerId, LayerId];
  await driver.create(base, { writable: true });
  {
    await using mounted = await driver.mount(base);
    const at = toText(mounted.path);
    for (const name of ['a', 'a/x', 'gone', 'kept']) mkdirSync(join(at, name));
    for (let i = 0; i < 300; i++) writeFileSync(join(at, `a/f${i}`), 'f'.repeat(5000));
    writeFileSync(join(at, 'gone/f'), 'f');
  }
  await driver.create(id, { parent: base, writable: true });
  await using mounted = await driver.mount(id, mode === undefined ? {} : { mode });
  const at = toText(mounted.path);
  for (let i = 0; i < 300; i += 2) chmodSync(join(at, `a/f${i}`), 0o600);
  for (let i = 1; i < 300; i += 2) writeFileSync(join(at, `a/f${i}`), 'new');
  rmSync(join(at, 'gone'), { recursive: true });
  if (mode !== undefined) renameSync(join(at, 'a/x'), join(at, 'moved'));
  for (let i = 0; i < 3000; i++) writeFileSync(join(at, `kept/new${i}`), '');
  return [base, id];
}

for (const [name, mode] of [...DRIVERS.map((driver) => [driver, undefined] as const), ['overlay2', MODE] as const]) {
  test(`changes() of the asker's thread is what a thread lists, and leaves it where it was: ${name}${mode ? ', redirect_dir, metacopy' : ''}`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 256);
    const open: Parameters<typeof openHouse>[1] = (settings) => openLayerDriver(name, settings);
    await using house = await openHouse(fromText(disk.path), open);
    await using threads = await openThreads(1);
    await using none = await openThreads(1, { here: true });
    for (const scratch of ['one', 'other']) mkdirSync(join(disk.path, scratch));
    const driver = storageDriver(house.driver, threads, fromText(join(disk.path, 'one')));
    const here = storageDriver(house.driver, none, fromText(join(disk.path, 'other')));
    const [base, id] = await layerIn(driver, mode);
    const written = mode === undefined ? {} : { mode };
    const before = standing(disk.path);
    for (const renames of [undefined, 'collapse'] as const) {
      for (const rendering of ['core', 'docker'] as const) {
        const options = { ...written, rendering, ...(renames && { renames }) };
        const expected = await Array.fromAsync(driver.changes(id, base, options));
        assert.ok(expected.length > 3000);
        assert.deepEqual(await Array.fromAsync(here.changes(id, base, options)), expected);
        assert.deepEqual(standing(disk.path), before);
      }
    }
    // Who stops reading, or gives up, leaves it as well; others are heard meanwhile.
    for await (const _ of here.changes(id, base, written)) break;
    assert.deepEqual(standing(disk.path), before);
    if (name === 'vfs') return; // its lists are made by a thread
    assert.equal(none.jobs.idle, 0);
    const giving = new AbortController();
    const reason = new Error('enough');
    const listing = (async () => {
      for await (const _ of here.changes(id, base, { ...written, signal: giving.signal })) {
        for (const until = performance.now() + 1; performance.now() < until; ) {}
      }
    })();
    setTimeout(() => giving.abort(reason), 50);
    await assert.rejects(listing, (error) => error === reason);
    assert.deepEqual(standing(disk.path), before);
    // One at a time: the other is a job's. And none keeps the thread elsewhere while its changes are looked at.
    const expected = await Array.fromAsync(driver.changes(id, base, written));
    const both = [0, 1].map(() => Array.fromAsync(here.changes(id, base, written)));
    assert.deepEqual(await Promise.all(both), [expected, expected]);
    assert.equal(none.jobs.idle, 1);
    const looked = here.changes(id, base, written)[Symbol.asyncIterator]();
    await looked.next();
    assert.deepEqual(standing(disk.path), before);
    await looked.return?.();
  });
}
