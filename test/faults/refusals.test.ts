import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { openStore } from '../../src/index.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { fails } from '../transport/archives.ts';

const INDEX = new URL('../../src/index.ts', import.meta.url).href;

test('openStore() refuses a newer store, another driver, a damaged one, what is no store, and changes nothing', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('refusals');
  const at = (name: string): string => join(dir.path, name);
  for (const name of ['newer', 'other', 'damaged', 'gone']) {
    await using store = await openStore({ root: at(name), driver: 'vfs' });
    await store.layers.create(undefined, { name: 'mine' });
  }
  const newer = new DatabaseSync(at('newer/store.db'));
  newer.exec('PRAGMA user_version = 99');
  newer.close();
  writeFileSync(at('damaged/store.db'), 'no database '.repeat(1000));
  rmSync(at('gone/store.db'));
  mkdirSync(at('home/.ssh'), { recursive: true });
  writeFileSync(at('file'), '');
  const before = readdirSync(dir.path, { recursive: true }).sort();
  const refusals = [
    [{ root: at('newer') }, 'failed-precondition', /format 99.*newer layerstore/],
    [{ root: at('other'), driver: 'overlay2' }, 'failed-precondition', /made with the driver vfs/],
    [{ root: at('damaged') }, 'corrupt', /restore it from a copy/],
    [{ root: at('gone') }, 'corrupt', /store\.db is gone/],
    [{ root: at('home') }, 'failed-precondition', /not a store and not empty.*"\.ssh"/],
    [{ root: at('file') }, 'failed-precondition', /no directory/],
    [{ root: at('file/below') }, 'failed-precondition', /no directory/],
    [{ root: at('absent'), create: false }, 'not-found', /there is no store/],
    [{ root: at('absent'), driver: 'zfs' as 'vfs' }, 'unsupported', /"zfs"/],
    [{ root: at('absent'), driverOptions: ['nonsense'] }, 'invalid-argument', /nonsense/],
    [{ root: at('absent'), driver: 'overlay2', driverOptions: ['overlay2.color=red'] }, 'invalid-argument', /color/],
  ] as const;
  for (const [options, code, text] of refusals) {
    await assert.rejects(openStore(options), fails(code, text), JSON.stringify(options));
  }
  await assert.rejects(openStore({ root: at('absent'), signal: AbortSignal.abort('no') }), (error) => error === 'no');
  assert.deepEqual(readdirSync(dir.path, { recursive: true }).sort(), before);
  await using other = await openStore({ root: at('other') });
  assert.equal((await other.layers.get('mine')).name, 'mine', 'the right driver opens it');
});

test('openStore() by an ordinary user is permission-denied, and says so in one line', async (t) => {
  if (!need(t, 'root', 'setpriv', 'open-checkout')) return;
  await using dir = await scratch('refusals');
  for (let path = dir.path; path !== '/' && path !== '/tmp'; path = join(path, '..')) chmodSync(path, 0o755);
  chmodSync(dir.path, 0o777);
  const script = `import { openStore } from ${JSON.stringify(INDEX)};
    try { await openStore({ root: ${JSON.stringify(join(dir.path, 'store'))} }) } catch (error) { console.log(error.code, error.message) }`;
  const asUser = [
    '--reuid=65534',
    '--regid=65534',
    '--clear-groups',
    process.execPath,
    '--input-type=module',
    '-e',
    script,
  ];
  const { stdout, stderr } = spawnSync('setpriv', asUser, { encoding: 'utf8', env: { PATH: process.env['PATH'] } });
  assert.equal(stderr, '');
  assert.match(stdout, /^permission-denied Cannot open the store "[^"\n]*": only root can; run it as root\n$/);
  assert.deepEqual(readdirSync(dir.path), []);
});

test('a store that is closed says so, whatever is asked of it, and leaves neither threads nor descriptors', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('refusals');
  const use = async (): Promise<Awaited<ReturnType<typeof openStore>>> => {
    await using store = await openStore({ root: join(dir.path, 'store'), threads: 2 });
    const work = await store.layers.create();
    await work.commit('x:1');
    await work.remove();
    return store;
  };
  const store = await use();
  await assert.rejects(store.images.list(), fails('failed-precondition', /closed/));
  await assert.rejects(store.layers.create(), fails('failed-precondition', /closed/));
  await assert.rejects(store.upkeep.check(), fails('failed-precondition', /closed/));
  await store[Symbol.asyncDispose]();
  const count = (what: string): number => readdirSync(`/proc/self/${what}`).length;
  const before = [count('task'), count('fd')];
  for (let i = 0; i < 3; i++) await use();
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.ok(count('task') <= (before[0] as number), `${count('task')} threads, ${before[0]} before`);
  assert.ok(count('fd') <= (before[1] as number), `${count('fd')} descriptors, ${before[1]} before`);
});

test('a store that is left open never delays the exit of its process, and a load that nobody waits for is finished (invariant 12)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('refusals');
  const root = JSON.stringify(join(dir.path, 'store'));
  const script = `import { openStore } from ${JSON.stringify(INDEX)};
    const store = await openStore({ root: ${root} });
    const work = await store.layers.create();
    await work.commit('x:1');
    const from = performance.now();
    process.on('exit', () => console.log(performance.now() - from < 1000 ? 'soon' : 'late'));
    void work.commit('y:1').then(() => console.log('done'));`;
  const run = ['--input-type=module', '-e', script];
  const { status, stdout, stderr } = spawnSync(process.execPath, run, { encoding: 'utf8', timeout: 30_000 });
  assert.deepEqual([status, stdout, stderr], [0, 'done\nsoon\n', '']);
});
