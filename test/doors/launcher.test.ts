import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { scratch } from '../kit/scratch.ts';

const HOME = fileURLToPath(new URL('../..', import.meta.url));
const LAUNCHER = join(HOME, 'bin/layerstore');
const VERSION = /^layerstore \d+\.\d+\.\d+ \(Node v\d+/;

/** A checkout without node_modules whose program tells what started it. */
function bareCheckout(directory: string): string {
  mkdirSync(join(directory, 'bin'));
  mkdirSync(join(directory, 'src/doors/cli'), { recursive: true });
  cpSync(LAUNCHER, join(directory, 'bin/layerstore'));
  return join(directory, 'bin/layerstore');
}

/** A `node` that says it is `version`, and shows its arguments. */
function nodeStub(path: string, version: string): void {
  writeFileSync(
    path,
    `#!/bin/sh\nif [ "$1" = --version ]; then echo ${version}; else echo "$0" "$@" $GLIBC_TUNABLES; fi\n`,
  );
  chmodSync(path, 0o755);
}

interface Said {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(file: string, path: string, ...args: string[]): Said {
  return runIn({}, file, path, ...args);
}

function runIn(env: NodeJS.ProcessEnv, file: string, path: string, ...args: string[]): Said {
  // Without the system's directories, but with the two programs that the launcher may use.
  return spawnSync(file, args, { encoding: 'utf8', env: { PATH: path, ...env } });
}

test('bin/layerstore starts with the Node of the checkout, whatever PATH has', () => {
  const { status, stdout } = run(LAUNCHER, '', 'version');
  assert.equal(status, 0);
  assert.match(stdout, VERSION);
});

test('bin/layerstore finds its checkout through symlinks, relative, chained and in a linked directory', async () => {
  await using dir = await scratch();
  symlinkSync(LAUNCHER, join(dir.path, 'absolute'));
  symlinkSync('absolute', join(dir.path, 'chained'));
  symlinkSync(join(HOME, 'bin'), join(dir.path, 'bin'));
  mkdirSync(join(dir.path, 'a b'));
  symlinkSync('../bin/layerstore', join(dir.path, 'a b/relative'));
  const PATH = process.env['PATH'] ?? '';
  for (const name of ['absolute', 'chained', 'bin/layerstore', 'a b/relative']) {
    assert.match(run(join(dir.path, name), PATH, 'version').stdout, VERSION, name);
  }
  const found = spawnSync('sh', ['-c', 'chained version'], { env: { PATH: `${dir.path}:${PATH}` }, encoding: 'utf8' });
  assert.match(found.stdout, VERSION);
  const here = execFileSync('sh', ['layerstore', 'version'], { cwd: join(HOME, 'bin'), encoding: 'utf8' });
  assert.match(here, VERSION);
});

test('bin/layerstore without the pinned Node takes the first of the system that is new enough', async () => {
  await using dir = await scratch();
  const launcher = bareCheckout(dir.path);
  const path = join(dir.path, 'path');
  mkdirSync(path);
  for (const version of ['v18.20.4', 'v20.20.2', 'v23.11.0', 'garbage']) {
    nodeStub(join(path, 'node'), version);
    const { status, stdout, stderr } = run(launcher, path, 'version');
    assert.deepEqual([status, stdout], [5, '']);
    assert.match(stderr, /^layerstore: Cannot start: it needs Node 24 or newer and finds \S+; run "npm ci" in .*\n$/);
  }
  nodeStub(join(path, 'nodejs'), 'v26.1.0');
  assert.match(run(launcher, path, 'a b', '').stdout, /nodejs --disable-warning=\S+ .*checkout\.cjs a b \n$/);
  nodeStub(join(path, 'node'), 'v24.0.0');
  assert.match(run(launcher, path).stdout, /\/node --disable-warning/);
});

test('bin/layerstore gives Node the same options for a command wherever its own options stand', async () => {
  await using dir = await scratch();
  const launcher = bareCheckout(dir.path);
  const path = join(dir.path, 'path');
  mkdirSync(path);
  nodeStub(join(path, 'node'), 'v24.0.0');
  const options = (...args: string[]): string => run(launcher, path, ...args).stdout.split(/ \S*checkout/)[0] as string;
  const [usual, roomy] = [options('images'), options('changes', 'x')];
  assert.equal(roomy, usual.replace('size=2', 'size=1 --min-semi-space-size=8'));
  assert.notEqual(roomy, usual);
  assert.equal(options('commit', 'x', 'y'), usual.replace('size=2', 'size=1 --initial-old-space-size=32'));
  for (const args of [
    ['--json', 'changes', 'x'],
    ['--root', '/a/b', 'changes'],
    ['-q', 'changes'],
    ['changes', '--help'],
  ]) {
    assert.equal(options(...args), roomy, args.join(' '));
  }
  for (const args of [[], [''], ['mount', 'changes'], ['help', 'changes'], ['driver', 'changes', 'x'], ['Changes']]) {
    assert.equal(options(...args), usual, args.join(' '));
  }
  // What malloc is told for a commit comes after what the user tells it, and for nothing else.
  const told = (...args: string[]): string =>
    runIn({ GLIBC_TUNABLES: 'glibc.cpu.x86_ibt=off' }, launcher, path, ...args)
      .stdout.trim()
      .split(' ')
      .at(-1) ?? '';
  assert.match(told('commit', 'x'), /^glibc\.cpu\.x86_ibt=off(:glibc\.malloc\.\w+=\d+)+$/);
  assert.match(
    run(launcher, path, 'commit', 'x').stdout,
    / commit x glibc\.malloc\.hugetlb=1(:glibc\.malloc\.\w+=\d+)+\n$/,
  );
  assert.equal(told('changes', 'x'), 'glibc.cpu.x86_ibt=off');
});

test('bin/layerstore without any Node says so in one line and exits with 5', async () => {
  await using dir = await scratch();
  const { status, stderr } = run(bareCheckout(dir.path), join(dir.path, 'nothing'));
  assert.equal(status, 5);
  assert.match(stderr, /^[^\n]*finds no Node at all[^\n]*\n$/);
});

test('bin/layerstore says that its output is closed, before it does anything, instead of losing what it prints', async () => {
  await using dir = await scratch();
  for (const command of ['version', 'create']) {
    const env = { ...process.env, LAYERSTORE_ROOT: join(dir.path, 'store') };
    const { status, stderr } = spawnSync('sh', ['-c', `"$0" ${command} >&-`, LAUNCHER], { encoding: 'utf8', env });
    assert.deepEqual([status, stderr], [2, 'layerstore: Cannot write "standard output": it is closed (EBADF)\n']);
  }
  assert.equal(existsSync(join(dir.path, 'store')), false);
});

test('bin/layerstore starts where Node may not require modules, joined and from its source, whatever the path', async () => {
  await using dir = await scratch();
  const joined = wholeCheckout(join(dir.path, 'a #%41'));
  const source = wholeCheckout(join(dir.path, 'b #%41'));
  rmSync(join(dir.path, 'b #%41/node_modules/esbuild'));
  for (const launcher of [joined, source]) {
    for (const NODE_OPTIONS of ['', '--no-experimental-require-module']) {
      const env = { ...process.env, NODE_OPTIONS };
      const { status, stdout, stderr } = spawnSync(launcher, ['version'], { encoding: 'utf8', env });
      assert.deepEqual([status, stderr], [0, '']);
      assert.match(stdout, /^layerstore \d/);
    }
    const copies = join(launcher, '../../node_modules/.cache/layerstore');
    assert.equal(existsSync(copies) && readdirSync(copies).length > 0, launcher === joined);
  }
});

test('bin/layerstore puts nothing into the environment', { skip: !existsSync('/proc/self/environ') }, async () => {
  await using dir = await scratch();
  const launcher = bareCheckout(dir.path);
  mkdirSync(join(dir.path, 'path'));
  const node = join(dir.path, 'path/node');
  writeFileSync(node, '#!/bin/sh\n[ "$1" = --version ] && echo v24.0.0 || /usr/bin/env\n');
  chmodSync(node, 0o755);
  const names = run(launcher, join(dir.path, 'path'))
    .stdout.split('\n')
    .map((line) => line.split('=')[0]);
  const ofTheShell = ['PATH', 'PWD', 'OLDPWD', 'SHLVL', '_', ''];
  assert.deepEqual(
    names.filter((name) => !ofTheShell.includes(name ?? '')),
    [],
  );
});

/** A checkout of its own, that shares what is installed: its joined copies are its own. */
function wholeCheckout(directory: string): string {
  mkdirSync(join(directory, 'node_modules'), { recursive: true });
  for (const name of ['bin', 'src', 'tools', 'package.json']) {
    cpSync(join(HOME, name), join(directory, name), { recursive: true });
  }
  for (const name of readdirSync(join(HOME, 'node_modules'))) {
    if (!name.startsWith('.')) symlinkSync(join(HOME, 'node_modules', name), join(directory, 'node_modules', name));
  }
  return join(directory, 'bin/layerstore');
}

test('bin/layerstore starts in a checkout whose path means something in URLs, for every user, and makes a damaged copy anew', async () => {
  await using dir = await scratch();
  const home = join(dir.path, 'a #b %41 ?c');
  const launcher = wholeCheckout(home);
  const started = (): string =>
    spawnSync('sh', ['-c', 'umask 077; "$0" version', launcher], { encoding: 'utf8' }).stdout;
  assert.match(started(), VERSION);
  const copies = join(home, 'node_modules/.cache/layerstore');
  const [copy = ''] = readdirSync(copies);
  const files = readdirSync(join(copies, copy), { recursive: true, encoding: 'utf8' }).map((name) =>
    join(copies, copy, name),
  );
  for (const file of files) assert.equal(statSync(file).mode & 0o044, 0o044, file);
  for (const name of ['sizes.json', 'package.json', ...['start.cjs', 'main.cjs', 'jobs/thread.js'].map(joined)]) {
    const file = join(copies, copy, name);
    const { size } = statSync(file);
    for (const left of [0, Math.floor(size / 9), Math.floor(size / 2), size - 1]) {
      truncateSync(file, left);
      assert.match(started(), VERSION, name);
      assert.equal(statSync(file).size, size, `${name}, of which ${left} bytes were left`);
    }
  }
});

const joined = (name: string): string => `dist/doors/cli/joined/${name}`;

test('bin/layerstore keeps the copies that are used, and drops others after a day', async () => {
  await using dir = await scratch();
  const launcher = wholeCheckout(dir.path);
  const started = (): string => spawnSync(launcher, ['version'], { encoding: 'utf8' }).stdout;
  assert.match(started(), VERSION);
  const copies = join(dir.path, 'node_modules/.cache/layerstore');
  const [first = ''] = readdirSync(copies);
  const daysAgo = (days: number): Date => new Date(Date.now() - days * 86_400_000);
  const changeSource = (): void => appendFileSync(join(dir.path, 'src/doors/cli/start.ts'), '\n');
  utimesSync(join(copies, first), daysAgo(2), daysAgo(2));
  assert.match(started(), VERSION);
  changeSource();
  assert.match(started(), VERSION);
  assert.ok(readdirSync(copies).includes(first), 'it was begun with today');
  assert.equal(readdirSync(copies).length, 2);
  utimesSync(join(copies, first), daysAgo(2), daysAgo(2));
  changeSource();
  assert.match(started(), VERSION);
  assert.ok(!readdirSync(copies).includes(first), 'nobody has used it for two days');
});
