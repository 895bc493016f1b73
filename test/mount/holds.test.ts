import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { close } from '../../src/linux/inode.ts';
import { readMountInfo } from '../../src/linux/mountinfo.ts';
import { formatHold, type HoldRecord, parseHold } from '../../src/mount/hold.ts';
import { describeHolders, findHolders } from '../../src/mount/holders.ts';
import { Holds } from '../../src/mount/holds.ts';
import { Locks } from '../../src/mount/locks.ts';
import { inlinePerformer } from '../kit/inline-performer.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';

const id = 'layer' as ByteString;
const text = fc.string({ unit: 'grapheme', maxLength: 20 });
const hold = fc
  .record({
    kind: fc.constantFrom('process' as const, 'named' as const, 'adopted' as const),
    pid: fc.integer({ min: 1, max: 4194304 }),
    start: fc.nat(),
    namespace: fc.constant('mnt:[4026531841]'),
    command: fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)) }),
    since: fc.constant('2026-11-25T12:00:00.000Z'),
    on: fc.constantFrom('mount' as const, 'directory' as const),
    name: text,
    label: fc.option(text, { nil: undefined }),
  })
  .map(({ name, label, ...rest }) => ({
    ...rest,
    ...(rest.kind === 'named' ? { name } : {}),
    ...(label === undefined ? {} : { label }),
  })) as fc.Arbitrary<HoldRecord>;

test('parseHold() undoes formatHold(), whatever names and commands hold; a line is a line', () => {
  fc.assert(
    fc.property(hold, (one) => {
      const written = formatHold(one);
      assert.equal(written.split('\n').length - 1, Object.keys(one).length);
      assert.deepEqual({ ...parseHold(written, 'x' as ByteString) }, { ...one });
    }),
  );
});

test('parseHold() answers corrupt and the file for what no hold says', () => {
  for (const bad of [
    '',
    'kind process\n',
    'kind other\non mount\npid 1\nstart 2\n',
    'kind named\non mount\npid 1\nstart 2\n',
  ]) {
    assert.throws(() => parseHold(bad as ByteString, '/run/x' as ByteString), {
      code: 'corrupt',
      message: /"\/run\/x"/,
    });
  }
});

test('Holds: a process hold lives as long as its lock, a named one until it is dropped; files under a dot are swept', async () => {
  await using dir = await scratch('holds');
  const holds = new Holds(fromText(dir.path));
  assert.deepEqual(holds.read(id), []);
  const mine = holds.take(id, { kind: 'process', on: 'mount' });
  const named = holds.take(id, { kind: 'named', name: 'a box', on: 'mount', label: 'l' });
  writeFileSync(`${dir.path}/layer/.left-over`, '');
  assert.deepEqual(
    holds
      .peek(id)
      .map(({ kind, alive }) => `${kind} ${alive}`)
      .sort(),
    ['named true', 'process true'],
  );
  assert.equal(readdirSync(`${dir.path}/layer`).length, 3);
  const [found] = holds.read(id).filter(({ kind }) => kind === 'named');
  assert.deepEqual([found?.name, found?.label, found?.pid], ['a box', 'l', process.pid]);
  assert.equal(readdirSync(`${dir.path}/layer`).length, 2);
  close(mine.fd as number); // as its death would
  assert.deepEqual(
    holds
      .read(id)
      .map(({ kind, alive }) => `${kind} ${alive}`)
      .sort(),
    ['named true', 'process false'],
  );
  const { fd: _, ...dead } = mine;
  assert.equal(holds.drop(id, dead), true);
  assert.equal(holds.drop(id, dead), false);
  assert.equal(holds.drop(id, named), true);
  assert.deepEqual(readdirSync(dir.path), []);
});

test('Locks: alone() runs one at a time in the order asked, waits for other processes and leaves no file', async () => {
  await using dir = await scratch('locks');
  const locks = new Locks(fromText(dir.path));
  const order: number[] = [];
  let inside = 0;
  const task = (n: number) => async (): Promise<void> => {
    assert.equal(++inside, 1);
    await sleep(1);
    order.push(n);
    inside--;
  };
  await Promise.all([1, 2, 3, 4].map((n) => locks.alone(id, task(n))));
  assert.deepEqual(order, [1, 2, 3, 4]);
  const other = spawn('flock', ['--no-fork', `${dir.path}/layer`, 'sh', '-c', 'echo; exec sleep 0.2'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(other.stdout, 'data');
  const ended = once(other, 'exit').then(() => order.push(5));
  await Promise.all([ended, locks.alone(id, task(6))]);
  assert.equal(order.length, 6);
  assert.deepEqual(readdirSync(dir.path), []);
  await assert.rejects(
    locks.alone(id, () => Promise.reject(new Error('x'))),
    /^Error: x$/,
  );
  await locks.alone(id, task(7));
});

test('Locks: alone() lets in one of several processes, though each takes the lock file away', async () => {
  await using dir = await scratch('locks');
  mkdirSync(`${dir.path}/locks`);
  const children = Array.from({ length: 3 }, () => lockChild(dir.path, 200));
  assert.deepEqual(await Promise.all(children.map(({ ended }) => ended)), ['', '', '']);
  assert.deepEqual(readdirSync(`${dir.path}/locks`), []);
});

test('Locks: alone() does not take a lock file that was removed between its open and its lock', async (t) => {
  if (!need(t, 'strace')) return;
  await using dir = await scratch('locks');
  mkdirSync(`${dir.path}/locks`);
  const locks = new Locks(fromText(`${dir.path}/locks`));
  // Each flock(2) of the child waits for half a second: in that time the file it has opened goes, and a new one comes.
  const slow = [
    'strace',
    '-f',
    '-qq',
    '-o',
    `${dir.path}/trace`,
    '-e',
    'trace=flock',
    '-e',
    'inject=flock:delay_enter=500000',
  ];
  let child: ReturnType<typeof lockChild> | undefined;
  await locks.alone(id, async () => {
    child = lockChild(dir.path, 1, slow);
    await untilOpened(child.process.pid as number, `${dir.path}/locks/layer`);
  });
  await locks.alone(id, async () => {
    mkdirSync(`${dir.path}/inside`); // what the child would make, were it let in
    await sleep(1200);
    rmdirSync(`${dir.path}/inside`);
  });
  assert.equal(await child?.ended, '');
});

/** Another process that takes the lock `rounds` times; `ended` is what it complained of. */
function lockChild(directory: string, rounds: number, through: readonly string[] = []) {
  const file = new URL('./lock-child.ts', import.meta.url).pathname;
  const [command = '', ...args] = [
    ...through,
    process.execPath,
    file,
    `${directory}/locks`,
    `${directory}/inside`,
    `${rounds}`,
  ];
  const child = spawn(command, args, { stdio: 'pipe' });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    said += part;
  });
  const ended = once(child, 'close').then(([code]) => (code === 0 ? '' : `${code}: ${said}`));
  return { process: child, ended };
}

/** Waits until a child of process `parent` has `path` open. */
async function untilOpened(parent: number, path: string): Promise<void> {
  for (;;) {
    const children = readFileSync(`/proc/${parent}/task/${parent}/children`, 'utf8').trim().split(' ');
    for (const pid of children.filter((one) => one !== '')) {
      const open = spawnSync(
        'readlink',
        descriptorsOf(pid).map((fd) => `/proc/${pid}/fd/${fd}`),
      );
      if (open.stdout.toString().split('\n').includes(path)) return;
    }
    await sleep(5);
  }
}

/** None of one that has ended: strace has children of its own when it starts. */
function descriptorsOf(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`);
  } catch (error) {
    if (!['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error;
    return [];
  }
}

test('Locks: an abort ends the waiting with its reason, in the queue and before another process', async () => {
  await using dir = await scratch('locks');
  const locks = new Locks(fromText(dir.path));
  const { promise, resolve } = Promise.withResolvers<void>();
  const first = locks.alone(id, () => promise);
  const reason = new Error('enough');
  const controller = new AbortController();
  let ran = false;
  const second = locks.alone(
    id,
    async () => {
      ran = true;
    },
    { signal: controller.signal },
  );
  controller.abort(reason);
  await assert.rejects(second, (error) => error === reason);
  resolve();
  await first;
  await locks.alone(id, async () => {});
  assert.equal(ran, false);
});

test('Locks: shared() and ifFree() keep each other out', async () => {
  await using dir = await scratch('locks');
  const locks = new Locks(fromText(dir.path));
  let swept = 0;
  await Promise.all([
    locks.shared(id, async () => {
      await locks.shared(id, async () => {});
      await locks.ifFree(id, async () => void swept++);
    }),
  ]);
  assert.equal(swept, 0);
  await locks.ifFree(id, async () => {
    swept++;
    await locks.ifFree(id, async () => void swept++);
  });
  assert.equal(swept, 1);
});

test('findHolders() names working directories, open files, programs and mounts; unmount() answers false meanwhile', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('holders');
  await using perform = inlinePerformer();
  const source = `${dir.path}/source`;
  const target = `${dir.path}/a b\n`;
  for (const path of [source, target]) mkdirSync(path);
  spawnSync('cp', ['/bin/sleep', `${source}/program`]);
  await perform.mount({ type: 'bind', source: fromText(source), readonly: true }, fromText(target));
  const entry = readMountInfo().findLast(({ mountPoint }) => mountPoint === target);
  assert.ok(entry !== undefined);
  assert.deepEqual(findHolders(entry), []);
  assert.throws(() => writeFileSync(`${target}/no`, ''), { code: 'EROFS' });
  const children = [
    spawn('sleep', ['60'], { cwd: target }),
    spawn(`${target}/program`, ['60']),
    spawn('sh', ['-c', 'exec 5<program; cd /; echo; exec sleep 60'], { cwd: target }),
  ];
  await Promise.all([...children.slice(0, 2).map((child) => once(child, 'spawn')), once(children[2]!.stdout!, 'data')]);
  const told = describeHolders(findHolders(entry));
  for (const [n, what] of ['its working directory', 'its program', 'open file ".*program"'].entries()) {
    assert.match(told, new RegExp(`process ${children[n]?.pid} \\(".*60"\\): ${what}`));
  }
  assert.equal(await perform.unmount(fromText(target), { detach: false }), false);
  for (const child of children) {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  assert.equal(await perform.unmount(fromText(target), { detach: false }), true);
  assert.equal(await perform.unmount(fromText(target), { detach: false }), true, 'not mounted is success');
});
