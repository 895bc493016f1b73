import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openStore, type Store } from '../../src/index.ts';
import { layerstore } from '../doors/run-cli.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk } from '../kit/images.ts';
import { ociImage } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';

interface Rig extends AsyncDisposable {
  readonly root: string;
  /** What removals set aside and nobody has deleted yet. */
  aside(): string[];
}

/** A store with an image of 20,000 files: some hundred milliseconds to delete. */
async function rig(t: TestContext, driver: (typeof DRIVERS)[number]): Promise<Rig | undefined> {
  if (!need(t, 'root', 'mount')) return undefined;
  const disk = await filesystem('tmpfs', 512);
  const root = join(disk.path, 'store');
  await using store = await openStore({ root, driver });
  await load(store);
  return {
    root,
    aside: () => readdirSync(join(root, driver)).filter((name) => name.startsWith('.removing-')),
    [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose](),
  };
}

async function load(store: Store): Promise<void> {
  await store.images.load([ociImage([bulk(1, 20_000, 10)], 'big')] as never);
}

async function until(done: () => boolean): Promise<void> {
  for (let tries = 0; !done(); tries++) {
    assert.ok(tries < 1000, 'it does not come');
    await sleep(10);
  }
}

for (const driver of DRIVERS) {
  test(`remove() only sets trees aside, a thread deletes them; gc({ wait }) waits for that (${driver})`, async (t) => {
    await using made = await rig(t, driver);
    if (made === undefined) return;
    await using store = await openStore({ root: made.root });
    await store.images.remove('big:1');
    assert.equal(made.aside().length, 1, 'its tree is not deleted yet');
    assert.deepEqual(await store.layers.stored(), []);
    await store.upkeep.gc({ wait: true });
    assert.deepEqual(made.aside(), []);
    await load(store);
    await store.images.remove('big:1');
    await until(() => made.aside().length === 0);
  });

  test(`a store that closes deletes no further; the next one takes it up (${driver})`, async (t) => {
    await using made = await rig(t, driver);
    if (made === undefined) return;
    const began = performance.now();
    {
      await using store = await openStore({ root: made.root });
      await store.images.remove('big:1');
    }
    assert.equal(made.aside().length, 1);
    assert.ok(performance.now() - began < 5000);
    await using store = await openStore({ root: made.root });
    await store.driver.status(); // what opens the driver
    await until(() => made.aside().length === 0);
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  });
}

test('rmi returns at once; one detached process with the least priority deletes, and a killed one is replaced', async (t) => {
  await using made = await rig(t, 'overlay2');
  if (made === undefined) return;
  const { status, stderr } = layerstore(made.root, ['rmi', 'big:1']);
  assert.equal(status, 0, stderr);
  assert.equal(made.aside().length, 1, 'its tree is not deleted yet');
  await until(() => deleters(made.root).length > 0 || made.aside().length === 0);
  for (const pid of deleters(made.root)) {
    assert.equal(nice(pid), 19);
    process.kill(pid, 'SIGKILL');
  }
  await until(() => deleters(made.root).length === 0);
  // Any command that opens the driver finds what is left.
  assert.equal(layerstore(made.root, ['info']).status, 0);
  await until(() => made.aside().length === 0);
  {
    await using store = await openStore({ root: made.root });
    await load(store);
  }
  assert.equal(layerstore(made.root, ['rmi', 'big:1']).status, 0);
  assert.equal(layerstore(made.root, ['gc', '--wait']).status, 0);
  assert.deepEqual(made.aside(), []);
  await until(() => deleters(made.root).length === 0);
});

/** Processes that delete for the store at `root`. */
function deleters(root: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      const words = commandOf(pid);
      return words.includes('--removed') && words.includes(root);
    });
}

function commandOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return []; // it ended meanwhile
  }
}

function nice(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ')[16]);
}
