import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { openStore, type Store, toText } from '../../src/index.ts';
import { shell } from '../doors/run-cli.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, type ImageSpec, ociTar } from '../kit/images.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import { leavesNoThread } from './nothing-left.ts';
import { mountsBelow } from './small-disk.ts';
import { stateOf } from './unharmed.ts';

const INDEX = new URL('../../src/index.ts', import.meta.url).href;
const LAUNCHER = fileURLToPath(new URL('../../bin/layerstore', import.meta.url));
const WITHIN_MS = 1000;

/** More than all that lies between a job and a reader who stops: the ring, and a pipe. */
const APP: ImageSpec = {
  layers: [bulk(1, 300, 5000), bulk(2, 16, 1 << 20)],
  names: ['docker.io/library/app:1'],
};

async function appIn(root: string, path: string): Promise<void> {
  writeFileSync(join(path, 'app.tar'), ociTar(APP));
  await using store = await openStore({ root, driver: 'overlay2', threads: 2 });
  await store.images.load(join(path, 'app.tar'));
  const work = await store.layers.create('app:1', { name: 'work' });
  await using mounted = await work.mount();
  for (let i = 0; i < 16; i++) writeFileSync(join(toText(mounted.path), `new-${i}`), Buffer.alloc(1 << 20, i));
}

/** The files that this process has open, those that a job has open among them; without a store's own sign of life. */
function openFiles(): string[] {
  const links = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ''; // the one that lists them
    }
  });
  return links.filter((link) => link.startsWith('/') && !link.includes('/sessions/')).sort();
}

type Options = { readonly signal?: AbortSignal };
const STREAMS = {
  save: async (store, options) => store.images.save(['app:1'], options),
  'save with gzip': async (store, options) => store.images.save(['app:1'], { compress: 'gzip', ...options }),
  diff: async (store, options) => (await store.layers.get('work')).diff(options),
  export: async (store, options) => store.images.export('work', options),
} as const satisfies Record<string, (store: Store, options: Options) => Promise<AsyncIterable<Uint8Array>>>;

const STOPS: readonly (readonly [keyof typeof STREAMS, 'leaves' | 'gives up' | 'closes'])[] = [
  ['save', 'leaves'],
  ['save', 'gives up'],
  ['save', 'closes'],
  ['save with gzip', 'leaves'],
  ['save with gzip', 'gives up'],
  ['diff', 'gives up'],
  ['diff', 'closes'],
  ['export', 'leaves'],
];

test('a stream whose reader stops holds a job until he leaves it, gives up, or closes the store: then nothing is left of it', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 256);
  const root = join(disk.path, 'store');
  await leavesNoThread(() => appIn(root, disk.path), 'first');
  for (const [what, how] of STOPS) {
    const stops = async (): Promise<void> => {
      await using store = await openStore({ root, threads: 2 });
      const state = await stateOf(store);
      const stop = new AbortController();
      const reason = { why: 'enough' };
      const files = openFiles();
      const items = (await STREAMS[what](store, { signal: stop.signal }))[Symbol.asyncIterator]();
      for (let bytes = 0; bytes < 3 << 20; ) bytes += (await items.next()).value?.length ?? 0;
      await sleep(50);
      assert.notDeepEqual(openFiles(), files, 'a job is at work');
      const from = performance.now();
      if (how === 'leaves') await items.return?.();
      if (how === 'closes') {
        await store[Symbol.asyncDispose]();
        const rest = async (): Promise<void> => {
          while ((await items.next()).done !== true);
        };
        await assert.rejects(rest());
        return;
      }
      if (how === 'gives up') {
        stop.abort(reason);
        // Compressed layers are in a file that the stream itself has open.
        if (what === 'save with gzip') await assert.rejects(items.next(), (error) => error === reason);
      }
      while (String(openFiles()) !== String(files)) {
        assert.ok(performance.now() - from < WITHIN_MS, `still open: ${openFiles()}, before ${files}`);
        await sleep(5);
      }
      if (how === 'gives up' && what !== 'save with gzip')
        await assert.rejects(items.next(), (error) => error === reason);
      assert.deepEqual(await stateOf(store), state);
    };
    await leavesNoThread(stops).catch((error: unknown) => {
      throw new Error(`${what}: the reader ${how}`, { cause: error });
    });
  }
});

test('a stream that is left half read, and never told so, does not keep its process; one that is waited for does', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 256);
  const root = join(disk.path, 'store');
  await appIn(root, disk.path);
  for (const [how, bytes] of Object.entries({ left: 3 << 20, whole: Number.POSITIVE_INFINITY })) {
    const script = `import { openStore } from ${JSON.stringify(INDEX)};
      const store = await openStore({ root: ${JSON.stringify(root)}, threads: 2 });
      const items = store.images.save(['app:1'])[Symbol.asyncIterator]();
      let item = await items.next();
      for (let bytes = 0; bytes < ${bytes} && !item.done; item = await items.next()) bytes += item.value.length;
      console.log(item.done ? 'whole' : 'left');`;
    const run = ['--input-type=module', '-e', script];
    const { status, stdout, stderr } = spawnSync(process.execPath, run, { encoding: 'utf8', timeout: 10_000 });
    assert.deepEqual([status, stdout, stderr], [0, `${how}\n`, '']);
  }
});

test('save, diff and export end with a reader that goes away in the middle, and at a signal while he does not read', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 256);
  const root = join(disk.path, 'store');
  await appIn(root, disk.path);
  const before = rootDump(root);
  for (const command of ['save app:1 -o -', 'save app:1 --compress gzip', 'diff work', 'export work']) {
    const { stdout, stderr } = shell(
      root,
      `set -o pipefail; $L ${command} | head -c 400000 | wc -c; echo \${PIPESTATUS[0]}; $L check`,
    );
    assert.match(stdout, /^400000\n130\n/, `${command}: ${stderr}`);
    assert.equal(stderr, 'layerstore: interrupted: the reader left in the middle\nno faults\n', command);
    const child = spawn(LAUNCHER, command.split(' '), {
      env: { PATH: process.env['PATH'], LAYERSTORE_ROOT: root },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const ended = once(child, 'exit');
    await once(child.stdout, 'readable');
    await sleep(300); // the pipe is full
    const from = performance.now();
    child.kill('SIGTERM');
    const [status] = await ended;
    assert.equal(status, 130, command);
    assert.ok(performance.now() - from < WITHIN_MS, `${command}: ${performance.now() - from} ms`);
    child.stdout.destroy();
    assert.deepEqual([rootDump(root), mountsBelow(root)], [before, []], command);
  }
  const whole = shell(root, '$L save -q app:1 | tar -tf - | wc -l');
  assert.match(whole.stdout, /^\d+\n$/);
  assert.equal(whole.stderr, '');
});
