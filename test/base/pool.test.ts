import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { awake } from '../../src/base/awake.ts';
import { isStorageError, type StorageError } from '../../src/base/errors.ts';
import { type Job, Pool } from '../../src/base/pool.ts';
import { abortRing, ringMemory } from '../../src/base/ring.ts';
import { need } from '../kit/require.ts';

const ENTRY = new URL('pool-thread.ts', import.meta.url);

function job(name: string, request: unknown = null): Job {
  return { name, request };
}

/** Rejects with `code`; answers the error. */
async function failure(promise: Promise<unknown>, code: string): Promise<StorageError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(isStorageError(error), String(error));
    assert.equal(error.code, code, error.message);
    return error;
  }
  throw new assert.AssertionError({ message: `resolved, expected ${code}` });
}

async function abortsWithin(ms: number, reason: unknown, promise: Promise<unknown>): Promise<void> {
  const from = performance.now();
  await assert.rejects(promise, (error) => error === reason);
  assert.ok(performance.now() - from < ms, `${performance.now() - from} ms`);
}

test('Pool.run() serves jobs in the order they came, each thread one after another', async () => {
  await using pool = new Pool(ENTRY, 1);
  const order: number[] = [];
  await Promise.all([20, 0, 5, 0].map((ms, i) => pool.run(job('count', ms)).then(() => order.push(i))));
  assert.deepEqual(order, [0, 1, 2, 3]);
  assert.equal(await pool.run(job('count', 0)), 4, 'one thread did them all');
});

test('Pool.runTogether() gives jobs that need each other a thread each, and small ones do not starve it', async () => {
  await using pool = new Pool(ENTRY, 2);
  const ring = ringMemory({ slots: 2, slotBytes: 64 });
  const long = pool.run(job('count', 60));
  const pair = pool.runTogether([job('send', { to: ring, sizes: [1000] }), job('receive', { from: ring })]);
  const late: string[] = [];
  const small = Promise.all(Array.from({ length: 3 }, () => pool.run(job('count', 0)).then(() => late.push('small'))));
  assert.deepEqual(await pair.finally(() => late.push('pair')), [undefined, { bytes: 1000, right: true }]);
  await Promise.all([long, small]);
  assert.equal(late[0], 'pair', 'who waits for two threads is not overtaken');
  await assert.rejects(pool.runTogether([job('now'), job('now'), job('now')]), RangeError);
});

test('Pool.runTogether() ends the other jobs when one fails, and throws the true failure', async () => {
  await using pool = new Pool(ENTRY, 2);
  let given = 0;
  const error = await failure(
    pool.runTogether([job('forever'), job('fail', 'the true one')], { giveUp: () => given++ }),
    'internal',
  );
  assert.equal(error.message, 'the true one');
  assert.equal(given, 1);
  assert.ok(typeof (await pool.run(job('now'))) === 'number', 'both threads are free again');
});

test('a job whose thread ends rejects, and the next one gets a new thread', async () => {
  await using pool = new Pool(ENTRY, 1);
  assert.match((await failure(pool.run(job('exit')), 'internal')).message, /its thread ended/);
  assert.match((await failure(pool.run(job('unclonable')), 'internal')).message, /its thread ended/);
  await pool.run(job('failLater', 100)); // dies while it is idle
  const before = threads();
  await until(() => threads() < before, 'the thread ends');
  await sleep(50); // the pool is told after that
  assert.equal(await pool.run(job('count', 0)), 0, 'a new thread');
  await failure(pool.run(job('no such job')), 'internal');
  await failure(pool.run(job('count', () => {})), 'internal'); // a request that cannot be cloned
  assert.equal(await pool.run(job('count', 0)), 1);
});

test('an abort rejects with the reason itself: before, while waiting for a thread, and while the job runs', async () => {
  await using pool = new Pool(ENTRY, 1);
  const reason = { why: 'enough' };
  await abortsWithin(50, reason, pool.run(job('forever'), { signal: AbortSignal.abort(reason) }));
  const [running, waiting] = [new AbortController(), new AbortController()];
  const first = pool.run(job('forever'), { signal: running.signal });
  const second = pool.run(job('forever'), { signal: waiting.signal });
  const third = pool.run(job('count', 0));
  await sleep(150);
  waiting.abort(reason);
  await abortsWithin(50, reason, second);
  running.abort(reason);
  await abortsWithin(1000, reason, first);
  assert.equal(await third, 0, 'the thread lives on');
});

test('a waiting pair that gives up lets the ones behind it go', async () => {
  await using pool = new Pool(ENTRY, 2);
  const [end, giveUp] = [new AbortController(), new AbortController()];
  const first = pool.run(job('forever'), { signal: end.signal });
  const pair = pool.runTogether([job('forever'), job('forever')], { signal: giveUp.signal });
  const behind = pool.run(job('count', 0));
  giveUp.abort(1);
  await assert.rejects(pair);
  assert.equal(await behind, 0);
  end.abort(1);
  await assert.rejects(first);
});

test('a paced job never waits for a free thread, and threads beyond the size end with it', async () => {
  await using pool = new Pool(ENTRY, 1);
  const rings = Array.from({ length: 4 }, () => ringMemory({ slots: 1, slotBytes: 16 }));
  // Each waits for a reader that does not come before the others are through.
  const paced = Promise.all(
    rings.map((ring) => failure(pool.run(job('send', { to: ring, sizes: [64] }), { paced: true }), 'canceled')),
  );
  assert.equal(typeof (await pool.run(job('now'))), 'number');
  const before = threads();
  for (const ring of rings) abortRing(ring);
  await awake(paced);
  await until(() => threads() <= before - 3, 'the surplus threads end');
});

test('a failure of node:fs in a job has the code that says what to do', async () => {
  await using pool = new Pool(ENTRY, 1);
  const full = await failure(pool.run(job('write', '/dev/full')), 'resource-exhausted');
  assert.deepEqual([full.errno, full.syscall], ['ENOSPC', 'write']);
  await failure(pool.run(job('write', '/nowhere/at/all')), 'not-found');
});

test('onProgress() is told now and then and at the end; what it throws rejects the call, not the process', async () => {
  await using pool = new Pool(ENTRY, 1);
  const stop = new AbortController();
  const told: number[] = [];
  const running = pool.run(job('forever'), {
    signal: stop.signal,
    onProgress: ([bytes]) => {
      told.push(bytes ?? 0);
      if (told.length === 3) stop.abort('enough');
    },
  });
  await assert.rejects(running, (error) => error === 'enough');
  assert.ok((told[0] as number) < (told[2] as number));
  const mine = new Error('mine');
  const onProgress = (): void => {
    throw mine;
  };
  await assert.rejects(pool.run(job('forever'), { onProgress }), mine);
  await assert.rejects(pool.run(job('now'), { onProgress }), mine);
});

test('disposing rejects what runs and what waits, and what comes later', async () => {
  const pool = new Pool(ENTRY, 1);
  const running = failure(pool.run(job('forever')), 'failed-precondition');
  const waiting = failure(pool.run(job('now')), 'failed-precondition');
  await sleep(100);
  await pool[Symbol.asyncDispose]();
  await Promise.all([running, waiting, failure(pool.run(job('now')), 'failed-precondition')]);
  await failure(pool.run(job('now'), { paced: true }), 'failed-precondition');
  await pool[Symbol.asyncDispose]();
});

test('a disposed pool leaves no thread and no descriptor', async () => {
  const use = async (): Promise<void> => {
    await using pool = new Pool(ENTRY, 3);
    await Promise.all(Array.from({ length: 6 }, () => pool.run(job('count', 1))));
    await failure(pool.run(job('exit')), 'internal');
  };
  await use();
  const before = [threads(), descriptors()];
  for (let i = 0; i < 4; i++) await use();
  await until(() => threads() <= (before[0] as number), 'threads');
  assert.ok(descriptors() <= (before[1] as number), `${descriptors()} descriptors, ${before[1]} before`);
});

test('job threads take nothing of the environment and of the flags of their process', async () => {
  await using pool = new Pool(ENTRY, 1);
  assert.deepEqual(await pool.run(job('surroundings')), { env: {}, flags: [] });
});

test('an idle pool never delays the exit of its process, a pending job holds it', () => {
  for (const [how, out] of [
    ['idle', '0\n'],
    ['pending', '0\ndone 1\n'],
  ] as const) {
    const child = new URL('pool-child.ts', import.meta.url).pathname;
    const { status, stdout, stderr } = spawnSync(process.execPath, [child, how], { encoding: 'utf8', timeout: 20_000 });
    assert.deepEqual([status, stdout, stderr], [0, out, '']);
  }
});

function threads(): number {
  return readdirSync('/proc/self/task').length;
}

function descriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

async function until(holds: () => boolean, what: string): Promise<void> {
  for (let i = 0; !holds(); i++) {
    assert.ok(i < 200, what);
    await sleep(10);
  }
}

test('free: a started thread is idle and nobody waits for more than there are', async () => {
  await using pool = new Pool(ENTRY, 2);
  assert.equal(pool.free, false, 'none is started');
  pool.warm(2);
  assert.equal(pool.free, true);
  const long = pool.run({ name: 'count', request: 300 });
  assert.equal(pool.free, true);
  const pair = pool.runTogether([
    { name: 'count', request: 0 },
    { name: 'count', request: 0 },
  ]);
  assert.deepEqual([pool.idle, pool.free], [1, false], 'the idle one is the pair\u2019s');
  await Promise.all([long, pair]);
  assert.equal(pool.free, true);
});

test('a thread that the kernel does not give is resource-exhausted; what was started for the job stays for others', (t) => {
  if (!need(t, 'root')) return;
  // One thread more is there, and no other: the limit is of a user who is not root, and counts all that is his.
  const script = `
    import { spawnSync } from 'node:child_process';
    import { readdirSync } from 'node:fs';
    import { Pool } from ${JSON.stringify(new URL('../../src/base/pool.ts', import.meta.url).href)};
    const pool = new Pool(new URL(${JSON.stringify(ENTRY.href)}), 2);
    const now = { name: 'now', request: null };
    await pool.run(now);
    const limit = (count) => spawnSync('prlimit', ['--pid', String(process.pid), '--nproc=' + count + ':']);
    const threads = () => readdirSync('/proc/self/task').length;
    limit(1);
    const before = threads();
    process.setuid(61234);
    for (const _ of [1, 2]) console.log(await pool.runTogether([now, now]).catch(({ code, message }) => code + ' ' + message));
    await pool.run(now);
    console.log(threads() - before);
    await pool[Symbol.asyncDispose]();`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  const refused =
    'resource-exhausted Cannot start a thread: the kernel gives no more (EAGAIN); allow more processes or';
  const [one = '', two = '', more] = stdout.split('\n');
  for (const line of [one, two]) assert.ok(line.startsWith(refused), line + stderr);
  assert.equal(more, '0');
});

test('ringMemory() says what it cannot have', () => {
  assert.throws(() => ringMemory({ slots: 2 ** 31, slotBytes: 2 ** 24 }), {
    code: 'resource-exhausted',
    message: /^Cannot pass bytes on: there is no memory for a ring of \d+ bytes$/,
  });
});
