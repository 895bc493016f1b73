import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ByteString, fromText, toText } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { sideOf } from '../../src/doors/cli/commands/cp.ts';
import { copyBetween } from '../../src/doors/cli/copy.ts';
import { Root } from '../../src/fs/rooted.ts';
import { file, layer, ociImage } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { withStore } from '../kit/stores.ts';

/** Copies between two trees below `dir`, as `cp` does between a layer and the machine. */
async function copy(
  dir: string,
  from: string,
  to: string,
  {
    archive = false,
    skipped = [] as string[],
    ...abortable
  }: { archive?: boolean; skipped?: string[]; signal?: AbortSignal } = {},
): Promise<void> {
  using source = Root.open(fromText(join(dir, 'from')));
  using target = Root.open(fromText(join(dir, 'to')));
  await copyBetween(
    { root: source, path: fromText(from) },
    { root: target, path: fromText(to) },
    {
      owner: archive ? undefined : { uid: 0, gid: 0 },
      onSkipped: (path: ByteString, type: string) => skipped.push(`${path} ${type}`),
      ...abortable,
    },
  );
}

/** `from/` with a bit of everything, `to/` with a directory, a file and links that point outside. */
function build(dir: string): void {
  fs.mkdirSync(join(dir, 'from/d/sub'), { recursive: true });
  fs.writeFileSync(join(dir, 'from/f'), 'new');
  fs.writeFileSync(join(dir, 'from/d/inner'), 'inner');
  fs.writeFileSync(join(dir, 'from/d/sub/deep'), 'deep');
  fs.symlinkSync('/etc/passwd', join(dir, 'from/d/link'));
  fs.symlinkSync('d', join(dir, 'from/to-d'));
  fs.chmodSync(join(dir, 'from/d/sub'), 0o1750);
  fs.utimesSync(join(dir, 'from/f'), 1000, 1000);
  fs.mkdirSync(join(dir, 'to/there'), { recursive: true });
  fs.writeFileSync(join(dir, 'to/old'), 'old');
  fs.mkdirSync(join(dir, 'outside'));
  fs.symlinkSync(join(dir, 'outside'), join(dir, 'to/escape'));
  fs.symlinkSync('/there', join(dir, 'to/absolute'));
  fs.symlinkSync('old', join(dir, 'to/to-old'));
  fs.symlinkSync('fresh', join(dir, 'to/to-nothing'));
}

function list(dir: string): string[] {
  return (fs.readdirSync(dir, { recursive: true }) as string[]).sort();
}

test('copyBetween() puts things where docker cp puts them', async (t) => {
  if (!need(t, 'root')) return;
  const rows: readonly (readonly [from: string, to: string, ...want: string[]])[] = [
    ['/f', '/there', 'there/f'],
    ['/f', '/there/', 'there/f'],
    ['/f', '/there/g', 'there/g'],
    ['/f', '/new', 'new'],
    ['/f', '/absolute', 'there/f'],
    ['/f', '/absolute/g', 'there/g'],
    ['/f', '/to-nothing', 'fresh'],
    ['/d', '/there', 'there/d', 'there/d/inner', 'there/d/link', 'there/d/sub', 'there/d/sub/deep'],
    ['/d', '/new', 'new', 'new/inner', 'new/link', 'new/sub', 'new/sub/deep'],
    ['/d/', '/new/', 'new', 'new/inner', 'new/link', 'new/sub', 'new/sub/deep'],
    ['/d/.', '/there', 'there/inner', 'there/link', 'there/sub', 'there/sub/deep'],
    ['/d/.', '/new', 'new', 'new/inner', 'new/link', 'new/sub', 'new/sub/deep'],
    ['/to-d', '/there', 'there/to-d'],
    ['/to-d/', '/new', 'new', 'new/inner', 'new/link', 'new/sub', 'new/sub/deep'],
    ['/d/link', '/new', 'new'],
    ['/d/sub/../../../../f', '/../new', 'new'],
  ];
  for (const [from, to, ...want] of rows) {
    await using dir = await scratch();
    build(dir.path);
    const before = list(join(dir.path, 'to'));
    await copy(dir.path, from, to);
    const added = list(join(dir.path, 'to')).filter((name) => !before.includes(name));
    assert.deepEqual(added, want, `${from} ${to}`);
    assert.deepEqual(list(join(dir.path, 'outside')), []);
  }
});

test('copyBetween() never leaves the root, on either side', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch();
  build(dir.path);
  fs.symlinkSync(join(dir.path, 'outside/secret'), join(dir.path, 'from/leak'));
  fs.symlinkSync(join(dir.path, 'outside'), join(dir.path, 'from/leaks'));
  fs.writeFileSync(join(dir.path, 'outside/secret'), 'secret');
  await assert.rejects(copy(dir.path, '/f', '/escape/f'), (error) => isStorageError(error, 'not-found'));
  await assert.rejects(copy(dir.path, '/leaks/secret', '/x'), (error) => isStorageError(error, 'not-found'));
  await copy(dir.path, '/leak', '/copied');
  assert.equal(fs.readlinkSync(join(dir.path, 'to/copied')), join(dir.path, 'outside/secret'));
  assert.deepEqual(list(join(dir.path, 'outside')), ['secret']);
});

test('copyBetween() replaces a file as a whole, through a link to it', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch();
  build(dir.path);
  fs.linkSync(join(dir.path, 'to/old'), join(dir.path, 'to/other-name'));
  await copy(dir.path, '/f', '/to-old');
  assert.equal(fs.readFileSync(join(dir.path, 'to/old'), 'utf8'), 'new');
  assert.equal(fs.statSync(join(dir.path, 'to/old')).mtimeMs, 1_000_000);
  assert.equal(fs.readFileSync(join(dir.path, 'to/other-name'), 'utf8'), 'old');
  assert.equal(fs.lstatSync(join(dir.path, 'to/to-old')).isSymbolicLink(), true);
  assert.equal(
    list(join(dir.path, 'to')).some((name) => name.includes('.tmp-')),
    false,
  );
});

test('copyBetween() refuses what does not fit, and says which code', async (t) => {
  if (!need(t, 'root')) return;
  const rows: readonly (readonly [string, string, string])[] = [
    ['/nothing', '/there', 'not-found'],
    ['/f/', '/there', 'not-found'],
    ['/f', '/nothing/', 'not-found'],
    ['/f', '/nothing/g', 'not-found'],
    ['/d', '/nothing/g', 'not-found'],
    ['/d', '/old', 'already-exists'],
  ];
  for (const [from, to, code] of rows) {
    await using dir = await scratch();
    build(dir.path);
    const before = list(dir.path);
    await assert.rejects(copy(dir.path, from, to), (error) => isStorageError(error, code as 'busy'), `${from} ${to}`);
    assert.deepEqual(list(dir.path), before);
  }
});

test('copyBetween() refuses a directory over a file below, and a file over a directory', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch();
  build(dir.path);
  fs.writeFileSync(join(dir.path, 'to/there/sub'), '');
  await assert.rejects(copy(dir.path, '/d/.', '/there'), (error) => isStorageError(error, 'already-exists'));
  fs.mkdirSync(join(dir.path, 'to/there/f'));
  await assert.rejects(copy(dir.path, '/f', '/there'), (error) => isStorageError(error, 'already-exists'));
});

test('copyBetween() gives files to the owner and takes set-id bits and capabilities away', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch();
  build(dir.path);
  fs.chownSync(join(dir.path, 'from/d'), 1000, 1001);
  fs.chownSync(join(dir.path, 'from/d/inner'), 1000, 1001);
  fs.chmodSync(join(dir.path, 'from/d/inner'), 0o6755);
  fs.chmodSync(join(dir.path, 'from/d'), 0o2770);
  const shape = (path: string): readonly number[] => {
    const { uid, gid, mode } = fs.lstatSync(join(dir.path, 'to', path));
    return [uid, gid, mode & 0o7777];
  };
  await copy(dir.path, '/d', '/plain');
  assert.deepEqual(
    [shape('plain'), shape('plain/inner'), shape('plain/sub')],
    [
      [0, 0, 0o770],
      [0, 0, 0o755],
      [0, 0, 0o1750],
    ],
  );
  await copy(dir.path, '/d', '/archive', { archive: true });
  assert.deepEqual(
    [shape('archive'), shape('archive/inner')],
    [
      [1000, 1001, 0o2770],
      [1000, 1001, 0o6755],
    ],
  );
});

test('copyBetween() leaves sockets out, and devices unless owners stay; fifos are copied unopened', async (t) => {
  if (!need(t, 'root', 'mknod', 'mkfifo', 'python3')) return;
  await using dir = await scratch();
  build(dir.path);
  execFileSync('mknod', [join(dir.path, 'from/d/zero'), 'c', '1', '5']);
  execFileSync('mkfifo', [join(dir.path, 'from/d/fifo')]);
  execFileSync('python3', [
    '-c',
    'import socket,os,sys; os.chdir(sys.argv[1]); socket.socket(socket.AF_UNIX).bind("sock")',
    join(dir.path, 'from/d'),
  ]);
  const skipped: string[] = [];
  await copy(dir.path, '/d', '/plain', { skipped });
  assert.deepEqual(skipped, ['/sock socket', '/zero character-device']);
  assert.equal(fs.statSync(join(dir.path, 'to/plain/fifo')).isFIFO(), true);
  await copy(dir.path, '/d', '/archive', { archive: true });
  assert.equal(fs.statSync(join(dir.path, 'to/archive/zero')).isCharacterDevice(), true);
});

test('copyBetween() does not copy a directory into itself for ever', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch();
  build(dir.path);
  using root = Root.open(fromText(join(dir.path, 'from')));
  const policy = { owner: undefined, onSkipped: () => {} };
  await assert.rejects(
    copyBetween({ root, path: '/d' as ByteString }, { root, path: '/d/sub' as ByteString }, policy),
    /into itself/,
  );
});

test('copyBetween() makes a new directory whole or not at all: not after a failure, not when it is given up', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch();
  build(dir.path);
  for (let i = 0; i < 3000; i++) fs.writeFileSync(join(dir.path, 'from/d/sub', `${i}`), 'x');
  const before = list(join(dir.path, 'to'));
  for (const to of ['/new', '/there']) {
    const giveUp = new AbortController();
    const copying = copy(dir.path, '/d', to, { signal: giveUp.signal });
    setTimeout(() => giveUp.abort(new Error('enough')), 1);
    await assert.rejects(copying, /enough/, to);
    assert.deepEqual(list(join(dir.path, 'to')), before);
  }
  // A failure after a part was merged into what is there.
  fs.mkdirSync(join(dir.path, 'to/there/d/inner'), { recursive: true });
  await assert.rejects(copy(dir.path, '/d', '/there'), (error) => isStorageError(error, 'already-exists'));
  assert.equal(
    list(join(dir.path, 'to')).some((name) => name.includes('.tmp-')),
    false,
  );
});

test('copyBetween() ends where a tree contains its target by way of an upper directory', async (t) => {
  await withStore(t, 'overlay2', async (store) => {
    await store.images.load(
      (async function* () {
        yield ociImage([layer(file('base', 'x'))]);
      })(),
    );
    await using work = await store.layers.create('test:1');
    await using mounted = await work.mount();
    fs.mkdirSync(join(toText(mounted.path), 'there/deep'), { recursive: true });
    using layerRoot = Root.open(mounted.path);
    using host = Root.open('/' as ByteString);
    const home = fromText(store.driver.home);
    const upper = `${home}/${work.id}/diff` as ByteString;
    const at = (root: Root, path: string): { root: Root; path: ByteString } => ({ root, path: path as ByteString });
    const policy = { owner: undefined, onSkipped: () => {} };
    const before = list(upper);
    for (const [from, to] of [
      [at(host, home), at(layerRoot, '/new')],
      [at(host, home), at(layerRoot, '/there')],
      [at(host, `${home}/.`), at(layerRoot, '/there')],
      [at(host, upper), at(layerRoot, '/there/deep/new')],
      [at(layerRoot, '/'), at(host, `${upper}/new`)],
      [at(layerRoot, '/there/.'), at(host, `${upper}/there/deep`)],
    ] as const) {
      const signal = AbortSignal.timeout(5000);
      await assert.rejects(copyBetween(from, to, { ...policy, signal }), /into itself/, `${from.path} ${to.path}`);
      // What was whole before the tree turned out to hold itself may stay in a directory that was there.
      for (const name of fs.readdirSync(join(upper, 'there'))) {
        if (name !== 'deep') fs.rmSync(join(upper, 'there', name), { recursive: true });
      }
      assert.deepEqual(list(upper), before, `${from.path} ${to.path}`);
    }
  });
});

test('sideOf() tells a layer from a file of this machine', () => {
  const rows: readonly (readonly [string, string | undefined, string])[] = [
    ['job:/etc', 'job', '/etc'],
    ['job:etc', 'job', '/etc'],
    ['job:', 'job', '/'],
    ['job:/a:b', 'job', '/a:b'],
    ['./a:b', undefined, './a:b'],
    ['/a:b', undefined, '/a:b'],
    ['..:b', undefined, '..:b'],
    [':b', undefined, ':b'],
    ['file', undefined, 'file'],
  ];
  for (const [operand, layer, path] of rows) assert.deepEqual(sideOf(fromText(operand)), { layer, path });
  assert.throws(() => sideOf('-' as ByteString), /no stream/);
});
