import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeImage } from '../../examples/quick-start/image.ts';
import { layerTar, openArchive } from '../../src/oci-entry.ts';
import { readTar, toText } from '../../src/tar/index.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';

const ROOT = new URL('../..', import.meta.url).pathname;
const REFERENCE = 'docker.io/library/demo:1';

interface Run {
  readonly file: string;
  readonly args: readonly string[];
  /** What a reader is promised. */
  readonly says: RegExp;
}

/** Each example with what it is given, in an order in which one can build on another. */
function runs(dir: string): readonly Run[] {
  const store = join(dir, 'store');
  return [
    {
      file: 'load-and-change.ts',
      args: [store, join(dir, 'image.tar'), join(dir, 'new.tar')],
      says: /^add \/hello\.txt$/m,
    },
    {
      file: 'convert-archive.ts',
      args: [join(dir, 'new.tar'), join(dir, 'docker.tar')],
      says: /^docker\.io\/library\/example:changed sha256:[0-9a-f]{64} \d layers$/m,
    },
    { file: 'list-images.ts', args: [store], says: /^docker\.io\/library\/demo:1 sha256:/m },
    { file: 'fork-a-sandbox.ts', args: [store, REFERENCE], says: /written by fork 2/ },
    { file: 'quick-start.ts', args: [], says: /^A \/srv\/app\/settings\/30-job$/m },
  ];
}

test('examples/: every file runs and does what it says', async (t) => {
  if (!need(t, 'mount', 'ldd', 'chroot')) return;
  await using dir = await scratch('examples');
  makeImage(join(dir.path, 'image.tar'), REFERENCE);
  const examples = runs(dir.path);
  assert.deepEqual(
    examples.map(({ file }) => file).toSorted(),
    globSync('*.ts', { cwd: join(ROOT, 'examples') }).toSorted(),
  );
  for (const { file, args, says } of examples) {
    const run = spawnSync(process.execPath, [join(ROOT, 'examples', file), ...args], {
      encoding: 'utf8',
      env: { ...process.env, TMPDIR: dir.path },
      timeout: 120_000,
    });
    assert.equal(run.status, 0, `${file}: ${run.stdout}${run.stderr}`);
    assert.match(run.stdout, says, file);
  }
  assert.deepEqual(globSync('layerstore-demo-*', { cwd: dir.path }), [], 'the quick start leaves nothing');
  assert.ok(existsSync(join(dir.path, 'new.tar')));
});

test('examples/quick-start: its image has several layers, a whiteout and an opaque directory', async (t) => {
  if (!need(t, 'ldd', 'chroot')) return;
  await using dir = await scratch('examples');
  const path = join(dir.path, 'image.tar');
  const made = makeImage(path, REFERENCE);
  await using archive = await openArchive(path);
  const [image] = archive.images();
  const names: string[] = [];
  for (const layer of image?.layers ?? []) {
    for await (const { entry } of readTar(layerTar(layer))) names.push(toText(entry.name).split('/').at(-1) ?? '');
  }
  assert.ok(made.length >= 3);
  assert.equal(image?.layers.length, made.length);
  assert.ok(names.includes('.wh..wh..opq'));
  assert.ok(names.some((name) => name.startsWith('.wh.') && !name.startsWith('.wh..wh.')));
});

test('examples/quick-start.ts refuses an ordinary user in one line, and makes nothing', async (t) => {
  if (!need(t, 'root', 'setpriv', 'open-checkout')) return;
  await using dir = await scratch('examples');
  const command = [
    '--reuid=65534',
    '--regid=65534',
    '--clear-groups',
    process.execPath,
    join(ROOT, 'examples/quick-start.ts'),
  ];
  const { status, stdout, stderr } = spawnSync('setpriv', command, {
    encoding: 'utf8',
    env: { ...process.env, TMPDIR: dir.path },
  });
  assert.deepEqual([status, stdout], [9, '']);
  assert.match(stderr, /^Cannot run the quick start: [^\n]*as root[^\n]*\n$/);
});

test('README: the library example is lines of examples/load-and-change.ts, in their order', () => {
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');
  const shown = /```ts\n(.*?)```/s.exec(readme)?.[1];
  assert.ok(shown !== undefined);
  const lines = readFileSync(join(ROOT, 'examples/load-and-change.ts'), 'utf8').split('\n');
  let at = 0;
  for (const line of shown.replace("'layerstore'", "'../src/index.ts'").split('\n')) {
    const found = lines.indexOf(line, at);
    assert.notEqual(found, -1, `the example has no line ${JSON.stringify(line)} after line ${at}`);
    at = line === '' ? at : found + 1;
  }
});
