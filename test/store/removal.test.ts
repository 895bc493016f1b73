import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type TestContext, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openStore, type Store } from '../../src/index.ts';
import { LAUNCHER, layerstore, shell } from '../doors/run-cli.ts';
import { deletersEnd, deletersOf } from '../kit/deleters.ts';
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
  const disk = await filesystem('tmpfs', 1024);
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

/** How a tree comes to be removed by each command; answers its arguments. */
const REMOVALS: Readonly<Record<string, (root: string) => Promise<string[]>>> = {
  rmi: async () => ['rmi', 'big:1'],
  rm: async (root) => {
    await using store = await openStore({ root });
    await store.layers.create('big:1', { name: 'job' });
    return ['rm', 'job'];
  },
  gc: async (root) => {
    // As a reader leaves it that was killed after its image was removed: a layer that no name reaches.
    using database = new DatabaseSync(join(root, 'store.db'));
    for (const table of ['refs', 'manifests', 'images']) database.exec(`DELETE FROM ${table}`);
    return ['gc'];
  },
};

for (const driver of DRIVERS) {
  for (const [verb, prepare] of Object.entries(REMOVALS)) {
    test(`${verb} returns at once, and one detached process with the least priority deletes (${driver})`, async (t) => {
      await using made = await rig(t, driver);
      if (made === undefined) return;
      const ended = commandEnds(made.root, await prepare(made.root));
      const pid = await stoppedDeleter(made.root);
      // It does nothing now, and the command ends all the same.
      assert.equal(await ended, 0);
      assert.equal(made.aside().length, 1, 'its tree is not deleted yet');
      assert.deepEqual(deletersOf(made.root), [pid]);
      assert.deepEqual(standing(pid), { session: pid, nice: 19 });
      process.kill(pid, 'SIGCONT');
      await until(() => made.aside().length === 0);
      await deletersEnd(made.root);
    });
  }
}

test('ls shows what is there while others remove', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  for (let round = 0; round < 4; round++) {
    const names = Array.from({ length: 12 }, (_, i) => `work-${i}`);
    {
      await using store = await openStore({ root });
      for (const name of names) await store.layers.create(undefined, { name });
    }
    const removing = names.map((name) => `"$L" rm ${name} &`).join(' ');
    const listing = 'for i in 1 2 3 4; do "$L" ls || echo "ls: $?"; done';
    const { stdout, stderr } = shell(root, `${removing} ${listing} & ${listing} & wait`);
    assert.equal(stderr, '');
    assert.doesNotMatch(stdout, /^ls: /m);
    assert.equal(layerstore(root, ['ls', '-q']).stdout, '');
  }
  await deletersEnd(root);
});

test('what a killed process was deleting is deleted by one that the next command starts; gc --wait waits', async (t) => {
  await using made = await rig(t, 'overlay2');
  if (made === undefined) return;
  const ended = commandEnds(made.root, ['rmi', 'big:1']);
  process.kill(await stoppedDeleter(made.root), 'SIGKILL');
  assert.equal(await ended, 0);
  await deletersEnd(made.root);
  assert.equal(made.aside().length, 1);
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
  await deletersEnd(made.root);
});

test('of four removals side by side one process deletes at a time, and it deletes what all of them removed', async (t) => {
  await using made = await rig(t, 'overlay2');
  if (made === undefined) return;
  const names = ['big', 'second', 'third', 'fourth'];
  {
    await using store = await openStore({ root: made.root });
    for (const [i, name] of names.entries()) {
      if (i > 0) await store.images.load([ociImage([bulk(1 + i, 20_000, 10)], name)] as never);
    }
  }
  const ended = names.map((name) => commandEnds(made.root, ['rmi', `${name}:1`]));
  const at = { ended: false };
  const statuses = Promise.all(ended).finally(() => {
    at.ended = true;
  });
  const seen = new Set<number>();
  let before = new Set<number>();
  let asideMax = 0;
  for (const began = performance.now(); ; await sleep(2)) {
    assert.ok(performance.now() - began < 60_000, 'it does not come');
    const now = lockers(made.root, made.aside());
    // Twice in a row: the list of all locks is not of one moment.
    const both = [...now].filter((pid) => before.has(pid));
    assert.ok(both.length <= 1, `the processes ${both} delete at once`);
    for (const pid of now) seen.add(pid);
    before = now;
    asideMax = Math.max(asideMax, made.aside().length);
    if (at.ended && made.aside().length === 0 && deletersOf(made.root).length === 0) break;
  }
  assert.deepEqual(await statuses, [0, 0, 0, 0]);
  assert.ok(seen.size > 0, 'nobody was seen at it');
  assert.ok(asideMax > 1, 'never were there two trees to delete');
  await using store = await openStore({ root: made.root });
  assert.deepEqual(await store.layers.stored(), []);
  assert.deepEqual(await store.upkeep.check({ deep: true }), []);
});

test('a store in a process starts no other for its removals, also where it closes before they are deleted', async (t) => {
  if (!need(t, 'strace')) return;
  await using made = await rig(t, 'overlay2');
  if (made === undefined) return;
  const index = new URL('../../src/index.ts', import.meta.url).href;
  const program = `
    import { readdirSync } from 'node:fs';
    import { openStore } from ${JSON.stringify(index)};
    const [root] = process.argv.slice(1);
    const aside = () => readdirSync(root + '/overlay2').filter((name) => name.startsWith('.removing-')).length;
    {
      await using store = await openStore({ root });
      await store.images.remove('big:1');
    }
    console.log(aside());
    {
      await using store = await openStore({ root });
      await store.upkeep.gc({ wait: true });
    }
    console.log(aside());`;
  const trace = join(made.root, '../trace');
  const calls = ['-f', '-qq', '-o', trace, '-e', 'trace=?fork,?vfork,clone,clone3,execve,execveat'];
  const run = [...calls, process.execPath, '--input-type=module', '-e', program, made.root];
  const { status, stdout, stderr } = spawnSync('strace', run, { encoding: 'utf8', timeout: 60_000 });
  assert.deepEqual([status, stdout], [0, '1\n0\n'], stderr);
  const lines = readFileSync(trace, 'utf8').split('\n');
  const threads = lines.filter((line) => line.includes('CLONE_THREAD'));
  assert.ok(threads.length > 5, 'the trace is not what the test takes it for');
  const began = lines.filter(
    (line) => /^\d+ +(v?fork|clone3?|execve|execveat)\(/.test(line) && !threads.includes(line),
  );
  assert.equal(began.length, 1, began.join('\n')); // the program itself
});

function commandEnds(root: string, args: readonly string[]): Promise<number | null> {
  const child = spawn(LAUNCHER, args, {
    env: { PATH: process.env['PATH'], LAYERSTORE_ROOT: root },
    stdio: 'ignore',
    timeout: 30_000,
    killSignal: 'SIGKILL',
  });
  return new Promise((resolve) => child.on('exit', resolve));
}

/** Processes that delete one of these trees: who does has it locked (proc(5), /proc/locks). */
function lockers(root: string, trees: readonly string[]): Set<number> {
  const inodes = trees.map((name) => statSync(join(root, 'overlay2', name), { throwIfNoEntry: false })?.ino);
  const device = statSync(root).dev;
  const found = new Set<number>();
  for (const line of readFileSync('/proc/locks', 'utf8').split('\n')) {
    const [, pid, major = '', minor = '', inode] = /FLOCK.* (\d+) (\w+):(\w+):(\d+) /.exec(line) ?? [];
    const [high, low] = [Number.parseInt(major, 16), Number.parseInt(minor, 16)];
    const on = (high << 8) | (low & 0xff) | ((low & ~0xff) << 12); // gnu_dev_makedev(3)
    if (on === device && inodes.includes(Number(inode)) && !line.includes('->')) found.add(Number(pid));
  }
  return found;
}

/** Waits for a process that deletes for the store, and stops it where it is: it cannot end before it is looked at. */
async function stoppedDeleter(root: string): Promise<number> {
  for (const began = performance.now(); performance.now() - began < 20_000; await sleep(1)) {
    const [pid] = deletersOf(root);
    if (pid === undefined) continue;
    process.kill(pid, 'SIGSTOP');
    return pid;
  }
  throw new assert.AssertionError({ message: 'no process deletes' });
}

/** The session and the niceness of a process (proc(5)). */
function standing(pid: number): { readonly session: number; readonly nice: number } {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return { session: Number(fields[3]), nice: Number(fields[16]) };
}
