import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isStorageError, openStore, type Store, toText, type WritableLayer } from '../../src/index.ts';
import { layerstore } from '../doors/run-cli.ts';
import { makeSampleImage } from '../doors/sample-image.ts';
import { filesystem } from '../kit/filesystems.ts';
import { ociTar } from '../kit/images.ts';
import { directory, file, layer, symlink } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import type { Scratch } from '../kit/scratch.ts';
import { mountsBelow } from './small-disk.ts';

// System calls of a command are made to fail, one by one, by strace. Which number a call has was read from its traces;
// that each fault was met is looked at, so a command that changes its calls shows here.

const LAUNCHER = fileURLToPath(new URL('../../bin/layerstore', import.meta.url));

/** What a command may answer, beside 0: a failure that is none to it (a file that nobody needs any more stays). */
const EXIT = { EIO: 7, ENOSPC: 8, ENOSYS: 5 } as const;

/** Newer C libraries make one of the other. */
const RENAME = '?renameat,?renameat2';
const UNLINK = '?unlink,?unlinkat';
const FSYNC = 'fsync,fdatasync';

type Place = 'database' | 'output';
/** `at`: of the calls that a thread makes, and only of those on `place`. */
type Fault = readonly [calls: string, error: keyof typeof EXIT, at: readonly number[], place?: Place];

interface Deed {
  readonly args: readonly string[];
  readonly faults: readonly Fault[];
  readonly before?: (store: Store) => Promise<unknown>;
  readonly undo: (store: Store) => Promise<unknown>;
  /** What the same command says when it was done before it failed: that there is nothing to do. */
  readonly doneBefore?: number;
}

let disk: Scratch | undefined;
let root = '';
let other = '';
let saved = '';
let output = '';

const on = async <T>(task: (store: Store) => Promise<T>): Promise<T> => {
  await using store = await openStore({ root, driver: 'overlay2', threads: 2 });
  return await task(store);
};
const absentIsFine = (error: unknown): void => {
  if (!isStorageError(error, 'not-found')) throw error;
};
const removeImage = (name: string) => (store: Store) => store.images.remove(name).catch(absentIsFine);
const removeLayer = (name: string) => (store: Store) => store.layers.remove(name).catch(absentIsFine);
const work = (store: Store): Promise<WritableLayer> => store.layers.get('work');

before(async () => {
  if (process.getuid?.() !== 0) return;
  disk = await filesystem('tmpfs', 256);
  root = join(disk.path, 'store');
  other = join(disk.path, 'other.tar');
  // Back in a directory that was left: that one is opened by its path.
  const back = [file('implied/f', 'x'), file('etc/g', 'g')];
  const entries = [directory('etc/'), file('etc/f', 'f'), symlink('l', 'f'), ...back];
  writeFileSync(other, ociTar({ layers: [layer(...entries)], names: ['docker.io/library/loaded:1'] }));
  output = join(disk.path, 'output');
  saved = join(output, 'saved.tar');
  mkdirSync(output);
  spawnSync('mkfifo', [join(disk.path, 'fifo')]);
  await on(async (store) => {
    await store.images.load(makeSampleImage(disk?.path ?? '').archive);
    const work = await store.layers.create('sample:1', { name: 'work' });
    await using mounted = await work.mount();
    const path = toText(mounted.path);
    writeFileSync(`${path}/etc/new`, 'new');
    rmSync(`${path}/etc/motd`);
    mkdirSync(`${path}/d`);
  });
});
after(() => disk?.[Symbol.asyncDispose]());

interface Run {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderr: string;
  readonly hits: number;
}

function withFault([calls, error, , place]: Fault, at: number, args: readonly string[]): Run {
  const log = join(disk?.path ?? '', 'strace');
  const fifo = join(disk?.path ?? '', 'fifo');
  const files = ['', '/store.db', '/store.db-wal', '/store.db-shm'].map((name) => `${root}${name}`);
  const paths = { database: files, output: [fifo] };
  const only = place === undefined ? [] : paths[place].flatMap((path) => ['-P', path]);
  const inject = ['-e', `trace=${calls}`, '-e', `inject=${calls}:error=${error}:when=${at}`];
  const line = [
    'strace',
    '-f',
    '--seccomp-bpf',
    '-qq',
    '-o',
    log,
    ...only,
    ...inject,
    LAUNCHER,
    '--root',
    root,
    ...args,
  ];
  // What reads the fifo ends with it.
  const script = place === 'output' ? 'cat "$0" >/dev/null & exec "$@" >"$0"' : 'exec "$@" >/dev/null';
  const shell = ['-c', script, fifo, ...line];
  const { status, signal, stderr } = spawnSync('sh', shell, { encoding: 'latin1', timeout: 30_000 });
  const hits = readFileSync(log, 'latin1').split('(INJECTED)').length - 1;
  return { status, signal, stderr, hits };
}

async function withstands(t: TestContext, deed: Deed): Promise<void> {
  if (!need(t, 'root', 'mount', 'tar', 'strace', 'mkfifo')) return;
  let failed = 0;
  let tried = 0;
  for (const fault of deed.faults) {
    for (const at of fault[2]) {
      tried++;
      const was = rootDump(root);
      if (deed.before !== undefined) await on(deed.before);
      const run = withFault(fault, at, deed.args);
      const what = `${fault[0]} ${at} ${fault[1]}: ${run.status} ${run.signal} ${run.stderr}`;
      assert.ok(run.hits > 0, `${what}: the fault was not met`);
      assert.equal(run.signal, null, `${what}: it hangs`);
      assert.ok(run.status === 0 || run.status === EXIT[fault[1]], what);
      const lines = run.stderr.split('\n').filter((line) => /^layerstore: (?!warning: )|^\s|Error:/.test(line));
      assert.equal(lines.length, run.status === 0 ? 0 : 1, what);
      assert.deepEqual(await on((store) => store.upkeep.check()), [], what);
      if (run.status !== 0) {
        failed++;
        assert.deepEqual(readdirSync(output), [], what);
        if (deed.args[0] !== 'umount') assert.deepEqual(mountsBelow(root), [], what);
        const again = layerstore(root, deed.args);
        assert.ok(again.status === 0 || again.status === deed.doneBefore, `${what}; again: ${again.stderr}`);
      }
      await on(async (store) => {
        await deed.undo(store);
        await store.upkeep.gc({ wait: true });
      });
      assert.deepEqual(mountsBelow(root), [], what);
      // overlayfs keeps a whiteout of its own in work/work.
      const left = rootDump(root).filter((path) => !was.includes(path) && !/\/work\/work\/#/.test(path));
      assert.deepEqual(left, [], `${what}: something is left`);
    }
  }
  assert.ok(failed > tried / 2, `only ${failed} of ${tried} faults were failures`);
}

const DEEDS: Readonly<Record<string, () => Deed>> = {
  load: () => ({
    args: ['load', '-q', '-i', other],
    undo: removeImage('loaded:1'),
    faults: [
      ['mkdirat', 'ENOSPC', [1, 2]],
      [RENAME, 'EIO', [1]],
      ['fchmodat', 'EIO', [1, 2]],
      ['syncfs', 'EIO', [1]],
      ['fchown', 'EIO', [3]],
      ['openat2', 'ENOSYS', [1]],
      [FSYNC, 'EIO', [3], 'database'],
    ],
  }),
  commit: () => ({
    args: ['commit', 'work', 'new:1'],
    undo: removeImage('new:1'),
    faults: [
      ['mkdirat', 'ENOSPC', [1, 5]],
      [RENAME, 'EIO', [1]],
      ['fchmodat', 'EIO', [2]],
      ['symlinkat', 'EIO', [1]],
      ['mknodat', 'ENOSPC', [1]],
      ['mount', 'ENOSPC', [2]],
      ['setns', 'EIO', [1]],
      ['syncfs', 'EIO', [1]],
      [FSYNC, 'EIO', [1, 4], 'database'],
      ['pwrite64', 'ENOSPC', [30], 'database'],
    ],
  }),
  'save to a file': () => ({
    args: ['save', 'sample:1', '-o', saved],
    undo: async () => rmSync(saved, { force: true }),
    faults: [
      ['openat2', 'EIO', [3]],
      ['pwrite64', 'ENOSPC', [2]],
      ['linkat', 'EIO', [1]],
    ],
  }),
  'save to a pipe': () => ({
    args: ['save', 'sample:1'],
    undo: async () => {},
    faults: [
      ['openat2', 'EIO', [2]],
      ['write', 'EIO', [1, 8], 'output'],
    ],
  }),
  mount: () => ({
    args: ['mount', 'work'],
    undo: async (store) => (await work(store)).unmount(),
    faults: [
      ['mkdirat', 'EIO', [1, 2]],
      ['fchownat', 'EIO', [1, 2]],
      [RENAME, 'EIO', [1]],
      ['mount', 'EIO', [1]],
      ['flock', 'EIO', [2]],
    ],
  }),
  umount: () => ({
    args: ['umount', 'work'],
    before: async (store) => (await work(store)).mount({ hold: true }),
    // A mount point that stayed is the next mount's.
    undo: async (store) => {
      await (await work(store)).unmount();
      await (await (await work(store)).mount())[Symbol.asyncDispose]();
    },
    doneBefore: 5,
    faults: [
      ['umount2', 'EIO', [1]],
      [UNLINK, 'EIO', [1, 2]],
    ],
  }),
  rm: () => ({
    args: ['rm', 'extra'],
    before: (store) => store.layers.create('sample:1', { name: 'extra' }),
    undo: removeLayer('extra'),
    doneBefore: 3,
    faults: [
      [RENAME, 'EIO', [1, 2]],
      [UNLINK, 'EIO', [1]],
      [FSYNC, 'EIO', [1], 'database'],
      ['pwrite64', 'ENOSPC', [9], 'database'],
    ],
  }),
  rmi: () => ({
    args: ['rmi', 'loaded:1'],
    before: (store) => store.images.load(other),
    undo: removeImage('loaded:1'),
    doneBefore: 3,
    faults: [
      [RENAME, 'EIO', [1]],
      [UNLINK, 'EIO', [1]],
      ['flock', 'EIO', [3]],
      ['pwrite64', 'ENOSPC', [9], 'database'],
    ],
  }),
  gc: () => ({
    args: ['gc'],
    // A file of no layer, and a layer whose removal got no further than its row.
    before: async (store) => {
      writeFileSync(join(root, 'records', `${'ab'.repeat(32)}.split.zst`), 'of no layer');
      await store.layers.create('sample:1', { name: 'extra' });
      assert.equal(withFault([RENAME, 'EIO', []], 2, ['rm', 'extra']).status, EXIT.EIO);
    },
    undo: async () => {},
    faults: [
      [RENAME, 'EIO', [1, 2]],
      [UNLINK, 'EIO', [1]],
      ['flock', 'EIO', [2]],
      [FSYNC, 'EIO', [1], 'database'],
      ['pwrite64', 'ENOSPC', [9], 'database'], // the reserve is given, and it is done again
      ['pwrite64', 'EIO', [9], 'database'],
    ],
  }),
};

for (const [name, deed] of Object.entries(DEEDS)) {
  test(`${name} with a failing system call ends soon with one line and the right code, leaves a sound store, and then works`, async (t) => {
    await withstands(t, deed());
  });
}
