import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isStorageError } from '../../src/base/errors.ts';
import { scratch } from '../kit/scratch.ts';
import { imageOf, layersOf, load, open } from './database-sample.ts';

const CHILD = new URL('database-child.ts', import.meta.url).pathname;

interface Child {
  readonly process: ChildProcess;
  readonly out: () => string;
  readonly err: () => string;
  /** Resolves with the exit code, or the signal's name. */
  readonly end: Promise<number | string>;
}

function child(args: readonly string[], nodeArgs: readonly string[] = [], env: NodeJS.ProcessEnv = {}): Child {
  const made = spawn(process.execPath, [...nodeArgs, CHILD, ...args], { env: { ...process.env, ...env } });
  let [out, err] = ['', ''];
  made.stdout.on('data', (chunk) => (out += chunk));
  made.stderr.on('data', (chunk) => (err += chunk));
  const end = once(made, 'close').then(([code, signal]) => (code ?? signal) as number | string);
  return { process: made, out: () => out, err: () => err, end };
}

test('openDatabase() makes one store when six processes make it at once', async () => {
  await using dir = await scratch('db');
  for (let round = 0; round < 2; round++) {
    const root = join(dir.path, 'new', String(round));
    const all = Array.from({ length: 6 }, () => child(['open', root]));
    for (const one of all) assert.equal(await one.end, 0, one.err());
    assert.equal(new Set(all.map((one) => one.out())).size, 1, 'all see the same store');
    assert.deepEqual(readdirSync(root).sort(), ['records', 'run', 'store.db', 'tmp']);
  }
});

test('openDatabase() in one process that is killed at any moment leaves a root that the next one can use', async () => {
  await using dir = await scratch('db');
  for (let i = 0; i < 8; i++) {
    const root = join(dir.path, String(i));
    const one = child(['open', root]);
    await sleep(120 + i * 30);
    one.process.kill('SIGKILL');
    await one.end;
    await using db = await open(root);
    assert.deepEqual(await db.check(), []);
    assert.deepEqual(
      readdirSync(root).filter((name) => name.startsWith('.')),
      [],
    );
  }
});

test('a commit that was answered survives SIGKILL, and four killed writers corrupt nothing', async () => {
  await using dir = await scratch('db');
  const promised = new Set<string>();
  const gone = new Set<string>();
  const unclear = new Set<string>();
  for (let round = 0; round < 4; round++) {
    const all = Array.from({ length: 4 }, (_, i) => child(['load', dir.path, `r${round}p${i}`]));
    while (all.some((one) => !one.out().includes('\n'))) await sleep(10);
    await sleep(100 + Math.random() * 200);
    for (const one of all) {
      one.process.kill('SIGKILL');
      await one.end;
      assert.equal(one.err(), '');
      for (const line of one.out().split('\n')) {
        const name = line.slice(2);
        if (line.startsWith('+')) promised.add(name);
        if (line.startsWith('?')) unclear.add(name);
        if (line.startsWith('-')) gone.add(name);
      }
    }
  }
  await using db = await open(dir.path);
  assert.deepEqual(await db.check(), []);
  assert.ok(promised.size > 20, `${promised.size} commits`);
  const names = new Set((await db.images()).flatMap((image) => image.names.map((name) => name.slice(18, -7))));
  for (const name of promised) if (!unclear.has(name)) assert.ok(names.has(name), `${name} was promised`);
  for (const name of gone) assert.ok(!names.has(name), `${name} was removed`);
  // What the dead left is found, and then gone for good.
  const stale = await db.staleMakings();
  assert.ok(stale.length > 0);
  await db.end(stale);
  for (const row of await db.unreachable()) await db.removeLayers([row.driverId]);
  assert.deepEqual(await db.unreachable(), []);
  assert.deepEqual(await db.check(), []);
});

test('staleMakings() and unreachable() find what a killed process left, and nothing of a living one', async () => {
  await using dir = await scratch('db');
  await using db = await open(dir.path);
  const layers = layersOf(['pinned']);
  await load(db, layers, []);
  const one = child(['make', dir.path, 'half']);
  while (!one.out().includes('made')) await sleep(20);
  assert.deepEqual(await db.staleMakings(), []);
  assert.deepEqual(await db.unreachable(), []);
  one.process.kill('SIGKILL');
  await one.end;
  assert.deepEqual(await db.staleMakings(), [{ kind: 'layer', name: 'half' }]);
  assert.deepEqual(
    (await db.unreachable()).map((row) => row.driverId),
    layers.map((row) => row.driverId),
  );
});

test('an idle database does not delay the exit of its process', async () => {
  await using dir = await scratch('db');
  const one = child(['idle', dir.path]);
  const code = await Promise.race([one.end, sleep(10_000, 'still running', { ref: false })]);
  one.process.kill();
  assert.equal(code, 0, one.err());
  assert.equal(one.out(), '0\n');
  assert.equal(one.err(), '');
});

test('the database thread takes in no preload, coverage or profile of its process', async () => {
  await using dir = await scratch('db');
  const at = (name: string): string => join(dir.path, name);
  const preload = at('preload.cjs');
  writeFileSync(preload, `require('node:fs').appendFileSync(${JSON.stringify(at('loaded'))}, 'once ')`);
  for (const name of ['coverage', 'profile']) mkdirSync(at(name));
  const one = child(['open', at('store')], ['--cpu-prof', `--cpu-prof-dir=${at('profile')}`], {
    NODE_OPTIONS: `--require ${preload}`,
    NODE_V8_COVERAGE: at('coverage'),
  });
  assert.equal(await one.end, 0, one.err());
  assert.match(one.out(), /^overlay2 /);
  assert.equal(readFileSync(at('loaded'), 'utf8'), 'once ');
  assert.equal(readdirSync(at('coverage')).length, 1);
  assert.equal(readdirSync(at('profile')).length, 1);
  assert.deepEqual(readdirSync(at('store')).sort(), ['records', 'run', 'store.db', 'tmp']);
});

test('a writer that waits too long for another process is busy, a reader never waits', async () => {
  await using dir = await scratch('db');
  await using db = await open(dir.path, { patience: { ms: 200 } });
  const layers = layersOf(['a']);
  const other = new DatabaseSync(join(dir.path, 'store.db'));
  other.exec('BEGIN IMMEDIATE');
  const start = performance.now();
  await assert.rejects(load(db, layers, [imageOf('a', layers)]), (error) => {
    assert.ok(isStorageError(error, 'busy'), String(error));
    assert.match(error.message, /another process .* try again/);
    return true;
  });
  assert.ok(performance.now() - start < 2000);
  assert.equal((await db.images()).length, 0);
  other.exec('ROLLBACK');
  other.close();
  await load(db, layers, [imageOf('a', layers)]);
});

test('openDatabase() sweeps the run directories of other boots', async () => {
  await using dir = await scratch('db');
  {
    await using _db = await open(dir.path);
  }
  const other = join(dir.path, 'run', '00000000-0000-0000-0000-000000000000');
  mkdirSync(join(other, 'holds'), { recursive: true });
  await using db = await open(dir.path);
  assert.equal(existsSync(other), false);
  assert.ok(existsSync(db.layout.sessions));
  rmSync(db.layout.run, { recursive: true });
  await using again = await open(dir.path);
  assert.equal(statSync(again.layout.run).mode & 0o7777, 0o700);
});
