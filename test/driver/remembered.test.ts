import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, globSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { openStore } from '../../src/index.ts';
import { LAUNCHER } from '../doors/run-cli.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';

// What a probe of overlayfs found is used again in the same circumstances, and in no others.

interface Opening {
  readonly status: number | null;
  readonly stderr: string;
  readonly probes: number;
  readonly mounts: number;
}

/** What a command does that opens the store at `root`; `before`: words that start it in other circumstances. */
function opening(root: string, before: readonly string[] = [], args: readonly string[] = ['info']): Opening {
  const trace = join(root, '../trace');
  const calls = 'trace=?mkdir,mkdirat,mount,?fsopen,?open_tree,execve';
  const strace = ['-f', '-qq', '-s', '500', '-o', trace, '-e', calls];
  const command = ['env', `LAYERSTORE_ROOT=${root}`, LAUNCHER, ...args];
  const ran = spawnSync('strace', [...strace, ...before, ...command], { encoding: 'utf8', timeout: 60_000 });
  const text = readFileSync(trace, 'utf8');
  const began = text.indexOf(`execve("${LAUNCHER}"`);
  assert.ok(began >= 0, ran.stderr);
  // What `before` mounts is not ours.
  const ours = text.slice(began).split('\n');
  const count = (call: RegExp): number => ours.filter((line) => call.test(line)).length;
  return {
    status: ran.status,
    stderr: ran.stderr,
    probes: count(/mkdir.*\.layerstore-probe-[^/"]*"/),
    mounts: count(/ (mount|fsopen|open_tree)\(/),
  };
}

/** Words that start a command where `file` reads as `text`. */
function withFile(directory: string, file: string, text: string): string[] {
  const other = join(directory, 'other');
  writeFileSync(other, text);
  return ['unshare', '--mount', 'sh', '-c', 'mount --bind "$0" "$1" && shift && exec "$@"', other, file];
}

async function rig(
  t: TestContext,
): Promise<(AsyncDisposable & { readonly path: string; readonly root: string }) | undefined> {
  if (!need(t, 'root', 'mount', 'strace')) return undefined;
  const disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  await (await openStore({ root, driver: 'overlay2' }))[Symbol.asyncDispose]();
  return { path: disk.path, root, [Symbol.asyncDispose]: () => disk[Symbol.asyncDispose]() };
}

function remembered(root: string): string {
  const [file] = globSync(join(root, 'run/*/overlay'));
  assert.ok(file !== undefined, 'nothing is remembered');
  return file;
}

const PROBED = { status: 0, stderr: '', probes: 1, mounts: 1 } as const;
const KNOWN = { status: 0, stderr: '', probes: 0, mounts: 0 } as const;

test('one command probes overlay, those after it mount nothing to know', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  assert.deepEqual(opening(made.root), PROBED);
  assert.deepEqual(opening(made.root), KNOWN);
  assert.deepEqual(opening(made.root), KNOWN);
  // A process that uses the library reads the same file.
  const text = readFileSync(remembered(made.root), 'utf8');
  writeFileSync(remembered(made.root), text.replace('an upper directory is the difference', 'so it was found'));
  await using store = await openStore({ root: made.root });
  assert.match(String(await store.driver.status()), /so it was found/);
});

test('a command that makes the store probes overlay once, to choose the driver', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  const root = join(made.path, 'new');
  assert.deepEqual(opening(root, [], ['create', '--name', 'work']), PROBED);
  assert.deepEqual(opening(root), KNOWN);
});

/** Circumstances in which what was found in the usual ones says nothing. */
const OTHERS: Readonly<Record<string, (t: TestContext, path: string) => readonly string[] | undefined>> = {
  'another kernel': (t) => (need(t, 'setarch') ? ['setarch', '--uname-2.6'] : undefined),
  'another boot': (_, path) =>
    withFile(path, '/proc/sys/kernel/random/boot_id', '01234567-89ab-cdef-0123-456789abcdef\n'),
  ...Object.fromEntries(
    ['redirect_dir', 'metacopy', 'index'].map((name) => [
      `another default of ${name}`,
      (t: TestContext, path: string) => {
        const file = `/sys/module/overlay/parameters/${name}`;
        if (existsSync(file)) return withFile(path, file, readFileSync(file, 'utf8').startsWith('N') ? 'Y\n' : 'N\n');
        t.skip(`this kernel has no ${name}`);
        return undefined;
      },
    ]),
  ),
};

for (const [what, words] of Object.entries(OTHERS)) {
  test(`what a probe of overlay found is not used with ${what}`, async (t) => {
    await using made = await rig(t);
    if (made === undefined) return;
    const before = words(t, made.path);
    if (before === undefined) return;
    assert.deepEqual(opening(made.root), PROBED);
    assert.deepEqual(opening(made.root), KNOWN);
    assert.deepEqual(opening(made.root, before), PROBED);
    assert.deepEqual(opening(made.root), PROBED, 'nor the other way round');
    assert.deepEqual(opening(made.root), KNOWN);
  });
}

/** Less than the right to mount; what the command says then. */
const RIGHTS: Readonly<Record<string, readonly [words: readonly string[], says: RegExp]>> = {
  'in a user namespace': [['unshare', '--user', '--map-root-user'], /in a user namespace/],
  'without the right to mount': [
    ['setpriv', '--bounding-set=-sys_admin', '--inh-caps=-sys_admin'],
    /overlay2 is not possible in .*does not mount/,
  ],
};

for (const [what, [before, says]] of Object.entries(RIGHTS)) {
  test(`what a probe of overlay found is not used ${what}`, async (t) => {
    await using made = await rig(t);
    if (made === undefined || !need(t, before[0] as string)) return;
    assert.deepEqual(opening(made.root), PROBED);
    const { status, stderr, probes } = opening(made.root, before);
    assert.deepEqual([status, probes], [5, 1], stderr);
    assert.match(stderr, says);
    assert.deepEqual(opening(made.root), KNOWN, 'what was refused is not remembered');
  });
}

test('what a probe of overlay found is not used on another filesystem, nor where the file is damaged', async (t) => {
  await using made = await rig(t);
  if (made === undefined) return;
  assert.deepEqual(opening(made.root), PROBED);
  await using other = await filesystem('tmpfs', 64);
  execFileSync('cp', ['-a', made.root, other.path]);
  assert.deepEqual(opening(join(other.path, 'store')), PROBED);
  assert.deepEqual(opening(join(other.path, 'store')), KNOWN);
  const file = remembered(made.root);
  const whole = readFileSync(file, 'utf8');
  for (const damaged of ['', whole.slice(0, -20), whole.replace(/\n[^\n]*\n$/, '\n'), `${whole}+more\n`]) {
    writeFileSync(file, damaged);
    assert.deepEqual(opening(made.root), PROBED, JSON.stringify(damaged));
    assert.equal(readFileSync(file, 'utf8'), whole);
  }
});
