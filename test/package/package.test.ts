import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { makeSampleImage } from '../doors/sample-image.ts';
import { need } from '../kit/require.ts';
import { type Scratch, scratch } from '../kit/scratch.ts';

// The package as its users get it: packed by npm from a copy of this checkout, installed without a network.

const ROOT = new URL('../..', import.meta.url).pathname;
const CHECKOUT = [
  ...['package.json', '.npmrc', 'tsconfig.json', 'tsconfig.build.json', 'try', 'bin', 'src', 'tools'],
  ...['README.md', 'LICENSE'],
];
const ENV = { ...process.env, PATH: `${dirname(process.execPath)}:${process.env['PATH']}` };
const NPM = ['--no-audit', '--no-fund', '--silent', '--offline'];

/** The values that `layerstore` exports: a new name is to be meant. */
const NAMES =
  'StorageError asDigest doctor fromBytes fromText isStorageError openDriver openStore overlayLayers quote toBytes toText toTextExact upperChanges upperDirectory writeUpperdir';

let dir: Scratch;
/** Where the package is installed. */
let app: string;
let tarball: string;

function run(cwd: string, command: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, env: ENV, encoding: 'utf8', timeout: 120_000 });
  assert.equal(status, 0, `${command} ${args.join(' ')}: ${stdout}${stderr}`);
  return stdout;
}

function pack(what: string, ...flags: string[]): string {
  return join(dir.path, run(what, 'npm', 'pack', ...NPM, ...flags, '--pack-destination', dir.path).trim());
}

before(async () => {
  dir = await scratch('package');
  if (spawnSync('npm', ['--version'], { env: ENV }).status !== 0) return; // the tests skip
  const checkout = join(dir.path, 'checkout');
  mkdirSync(checkout);
  for (const name of CHECKOUT) cpSync(join(ROOT, name), join(checkout, name), { recursive: true });
  symlinkSync(join(ROOT, 'node_modules'), join(checkout, 'node_modules'));
  tarball = pack(checkout);

  const arch = process.arch;
  const ours = [join(ROOT, 'node_modules/koffi'), join(ROOT, `node_modules/@koromix/koffi-linux-${arch}`)];
  const others = ours.map((path) => pack(path, '--ignore-scripts'));
  app = join(dir.path, 'app');
  mkdirSync(app);
  writeFileSync(join(app, 'package.json'), '{ "type": "module", "private": true }');
  run(app, 'npm', 'install', ...NPM, '--ignore-scripts', '--cache', join(dir.path, 'cache'), ...others, tarball);
});
after(() => dir[Symbol.asyncDispose]());

test('npm pack: the package asks for koffi only, and holds what runs and nothing else', (t) => {
  if (!need(t, 'npm')) return;
  const manifest = JSON.parse(readFileSync(join(app, 'node_modules/layerstore/package.json'), 'utf8')) as object;
  assert.deepEqual(Object.keys(Reflect.get(manifest, 'dependencies')), ['koffi']);
  assert.equal(Reflect.get(manifest, 'optionalDependencies'), undefined);
  const files = execFileSync('tar', ['tzf', tarball], { encoding: 'utf8' }).trim().split('\n');
  const others = files.filter((file) => !/^package\/dist\/.*\.(js|d\.ts)$/.test(file)).toSorted();
  const scripts = ['main', 'start'].map((name) => `package/dist/doors/cli/joined/${name}.cjs`);
  const expected = [
    'package/LICENSE',
    'package/README.md',
    'package/bin/layerstore',
    ...scripts,
    'package/package.json',
  ];
  assert.deepEqual(others, expected);
});

test('npm pack: publint and attw find nothing wrong', (t) => {
  if (!need(t, 'npm')) return;
  const node = process.execPath;
  run(dir.path, node, join(ROOT, 'node_modules/publint/src/cli.js'), 'run', tarball, '--strict');
  const attw = join(ROOT, 'node_modules/@arethetypeswrong/cli/dist/index.js');
  run(dir.path, node, attw, tarball, '--profile', 'esm-only');
});

test('the installed package is what a strict program compiles against, and runs', (t) => {
  if (!need(t, 'npm')) return;
  copyFileSync(join(ROOT, 'test/package/consumer.ts'), join(app, 'consumer.ts'));
  mkdirSync(join(app, 'node_modules/@types'));
  symlinkSync(join(ROOT, 'node_modules/@types/node'), join(app, 'node_modules/@types/node'));
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const flags = ['--strict', '--exactOptionalPropertyTypes', '--noEmit', '--types', 'node'];
  const modern = ['--module', 'nodenext', '--moduleResolution', 'nodenext', '--target', 'esnext'];
  run(app, process.execPath, tsc, ...flags, ...modern, 'consumer.ts');

  if (!need(t, 'mount', 'tar')) return;
  mkdirSync(join(dir.path, 'image'));
  const { archive } = makeSampleImage(join(dir.path, 'image'));
  const given = [join(dir.path, 'store'), archive, join(dir.path, 'result.tar')];
  assert.equal(run(app, process.execPath, 'consumer.ts', ...given).trim(), NAMES);
});

test('npx layerstore runs from an installed package, with the Node that is there', (t) => {
  if (!need(t, 'npm')) return;
  assert.match(run(app, 'npx', '--offline', 'layerstore', 'version'), /^layerstore \d+\.\d+\.\d+ \(Node v\d+/);
  const launcher = join(app, 'node_modules/.bin/layerstore');
  const file = join(app, 'node_modules/layerstore/bin/layerstore');
  const bare = spawnSync(file, ['version'], { env: { PATH: '/nowhere' }, encoding: 'utf8' });
  assert.deepEqual([bare.status, bare.stdout], [5, '']);
  assert.match(bare.stderr, /^layerstore: Cannot start: [^\n]*finds no Node at all; install one [^\n]*\n$/);
  if (!need(t, 'mount')) return;
  // The database's thread and the job threads start from what is installed.
  const root = join(dir.path, 'cli');
  assert.match(run(app, launcher, '--root', root, 'create', '--name', 'one'), /^[0-9a-f]+\n$/);
  assert.equal(run(app, launcher, '--root', root, 'changes', 'one'), '');
});
