import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, linkSync, lstatSync, mkdirSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import type { Difference, Rendering, WalkOptions } from '../../src/diff/types.ts';
import { walkChanges, walkDifferences } from '../../src/diff/walk.ts';
import { copyTree } from '../../src/fs/copy.ts';
import { lremovexattr, lsetxattr } from '../../src/linux/xattr.ts';
import { applyEdits, type Edit, edits, making } from '../kit/edits.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { type TreeEntry, treeEntries } from '../kit/tree-dump.ts';
import { overlay, tmpfs } from './overlay.ts';

const b = fromText;
const LETTERS = { add: 'A', modify: 'C', delete: 'D', rename: 'R' } as const;

function list(view: string, base: string | undefined, rendering: Rendering, options: WalkOptions = {}): string[] {
  const changes = walkChanges(b(view), base === undefined ? undefined : b(base), rendering, options);
  return [...changes].map(({ kind, path }) => `${LETTERS[kind]} ${path}`);
}

function carried(view: string, base: string, options: WalkOptions = {}): string[] {
  const all: Difference[] = [...walkDifferences(b(view), b(base), options)];
  return all.flatMap((step) => (step.kind === 'carried' ? [`${step.because} ${step.path}`] : []));
}

const BASE: readonly Edit[] = [
  { do: 'mkdir', path: 'd' },
  { do: 'mkdir', path: 'd/e' },
  { do: 'create', path: 'd/e/file', seed: 40 },
  { do: 'create', path: 'd/other', seed: 41 },
  { do: 'mkdir', path: 'gone' },
  { do: 'create', path: 'gone/file', seed: 42 },
  { do: 'symlink', path: 'link', target: 'd' },
  { do: 'create', path: 'same', seed: 43 },
];

test('a directory whose capability alone changed is listed once, before what is listed in it, wherever that is', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  const capability = 'security.capability' as ByteString;
  const value = Buffer.from('0100000200200000000000000000000000000000', 'hex');
  const set = (path: string): void => void lsetxattr(b(path), capability, value);
  for (const path of ['a/in', 'b', 'c/in/deep', 'd/in', 'e', 'f']) mkdirSync(`${base}/${path}`, { recursive: true });
  for (const path of ['a', 'a/in', 'c/in', 'd/in', 'f']) set(`${base}/${path}`);
  using layer = overlay(`${dir.path}/layer`, [base]);
  const { merged } = layer;
  for (const path of ['a', 'c/in', 'd/in']) lremovexattr(b(`${merged}/${path}`), capability);
  set(`${merged}/b`);
  writeFileSync(`${merged}/a/in/new`, '');
  chmodSync(`${merged}/c/in/deep`, 0o700);
  for (const path of ['e', 'f']) utimesSync(`${merged}/${path}`, 1, 1); // in the upper, and equal
  const expected = ['C /a', 'C /a/in', 'A /a/in/new', 'C /b', 'C /c', 'C /c/in', 'C /c/in/deep', 'C /d', 'C /d/in'];
  for (const options of [{}, { upper: b(layer.upper) }, { upper: b(layer.upper), guide: 'overlay' as const }]) {
    assert.deepEqual(list(merged, base, 'docker', options), expected);
  }
});

test('walkChanges() lists each kind of change once, in both renderings', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(base);
  applyEdits(base, BASE);
  using layer = overlay(`${dir.path}/layer`, [base]);
  applyEdits(layer.merged, [
    { do: 'chmod', path: 'd/e/file', mode: 0o600 },
    { do: 'delete', path: 'gone' },
    { do: 'replace', path: 'link', by: 'directory' },
    { do: 'create', path: 'link/in', seed: 1 },
    { do: 'rewrite', path: 'same' },
    { do: 'xattr', path: 'd/other', name: 'user.a', value: '1' },
    { do: 'create', path: 'd.new', seed: 2 },
  ]);
  for (const options of [{}, { upper: b(layer.upper) }]) {
    assert.deepEqual(list(layer.merged, base, 'core', options), [
      'C /d/e/file',
      'C /d/other',
      'A /d.new',
      'D /gone',
      'C /link',
      'A /link/in',
    ]);
    // Docker's does not look at user attributes.
    assert.deepEqual(list(layer.merged, base, 'docker', options), [
      'C /d',
      'C /d/e',
      'C /d/e/file',
      'A /d.new',
      'D /gone',
      'C /link',
      'A /link/in',
    ]);
  }
  assert.deepEqual(list(base, undefined, 'core'), [
    'A /d',
    'A /d/e',
    'A /d/e/file',
    'A /d/other',
    'A /gone',
    'A /gone/file',
    'A /link',
    'A /same',
  ]);
  assert.deepEqual(list(base, base, 'docker'), []);
});

test('walkChanges() finds other contents behind equal metadata, where they are in doubt', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(base);
  applyEdits(base, BASE);
  using layer = overlay(`${dir.path}/layer`, [base]);
  applyEdits(layer.merged, [
    { do: 'forge', path: 'd/e/file' },
    { do: 'rewrite', path: 'same' },
  ]);
  assert.deepEqual(list(layer.merged, base, 'core', { upper: b(layer.upper) }), ['C /d/e/file']);
  assert.deepEqual(list(layer.merged, base, 'core'), ['C /d/e/file']);

  const copy = `${dir.path}/copy`;
  mkdirSync(copy);
  copyTree(b(base), b(copy));
  const createdNs = BigInt(Date.now()) * 1_000_000n;
  assert.deepEqual(list(copy, base, 'core', { createdNs }), []);
  applyEdits(copy, [{ do: 'forge', path: 'd/other' }]);
  assert.deepEqual(list(copy, base, 'core', { createdNs }), ['C /d/other']);
  assert.deepEqual(list(copy, base, 'docker', { createdNs }), ['C /d', 'C /d/other']);
});

test('walkChanges() finds the contents of a directory that was renamed over another, on a copy', async () => {
  await using dir = await scratch('walk');
  const [base, copy] = [`${dir.path}/base`, `${dir.path}/copy`];
  for (const [name, text] of [
    ['one', 'aaa'],
    ['two', 'bbb'],
  ] as const) {
    mkdirSync(`${base}/${name}`, { recursive: true });
    writeFileSync(`${base}/${name}/f`, text);
    utimesSync(`${base}/${name}/f`, 1e9, 1e9);
  }
  mkdirSync(copy);
  copyTree(b(base), b(copy));
  await new Promise((done) => setTimeout(done, 50));
  const createdNs = BigInt(Date.now()) * 1_000_000n;
  await new Promise((done) => setTimeout(done, 50));
  rmSync(`${copy}/two`, { recursive: true });
  renameSync(`${copy}/one`, `${copy}/two`);
  assert.deepEqual(list(copy, base, 'core', { createdNs }), ['D /one', 'C /two/f']);
});

test('walkChanges() finds the contents of a redirected directory, which are not in the upper', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(base);
  applyEdits(base, [
    { do: 'mkdir', path: 'one' },
    { do: 'mkdir', path: 'two' },
    { do: 'create', path: 'one/f', seed: 2 },
    { do: 'create', path: 'two/f', seed: 2 },
    { do: 'forge', path: 'two/f' },
  ]);
  using layer = overlay(`${dir.path}/layer`, [base], 'index=off,redirect_dir=on');
  applyEdits(layer.merged, [
    { do: 'delete', path: 'two' },
    { do: 'rename', path: 'one', to: 'two' },
  ]);
  assert.deepEqual(list(layer.merged, base, 'core', { upper: b(layer.upper) }), ['D /one', 'C /two/f']);
});

test("walkChanges() in docker's rendering takes whole seconds where a side has no fraction, and then reads", async () => {
  await using dir = await scratch('walk');
  const [base, view] = [`${dir.path}/base`, `${dir.path}/view`];
  for (const root of [base, view]) {
    mkdirSync(root);
    for (const name of ['fraction', 'other', 'both']) writeFileSync(`${root}/${name}`, 'text');
  }
  writeFileSync(`${view}/other`, 'TEXT');
  for (const name of ['fraction', 'other']) {
    utimesSync(`${base}/${name}`, 1e9, 1e9);
    utimesSync(`${view}/${name}`, 1e9, 1e9 + 0.5);
  }
  utimesSync(`${base}/both`, 1e9, 1e9 + 0.25);
  utimesSync(`${view}/both`, 1e9, 1e9 + 0.5);
  const createdNs = BigInt(Date.now() + 60_000) * 1_000_000n; // nothing was touched since
  assert.deepEqual(list(view, base, 'docker', { createdNs }), ['C /both', 'C /other']);
  assert.deepEqual(list(view, base, 'core', { createdNs }), ['C /both', 'C /fraction', 'C /other']);
});

test('walkChanges() says modify for the later of two names that are linked now', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(base);
  for (const name of ['a', 'b', 'c', 'old']) writeFileSync(`${base}/${name}`, 'equal');
  for (const name of ['a', 'b', 'c', 'old']) utimesSync(`${base}/${name}`, 1e9, 1e9);
  linkSync(`${base}/old`, `${base}/twin`);
  using layer = overlay(`${dir.path}/layer`, [base]);
  rmSync(`${layer.merged}/b`);
  linkSync(`${layer.merged}/c`, `${layer.merged}/b`);
  const options = { upper: b(layer.upper) };
  for (const rendering of ['core', 'docker'] as const) {
    assert.deepEqual(list(layer.merged, base, rendering, options), ['C /c'], rendering);
  }
  assert.deepEqual(carried(layer.merged, base, options), ['linked /b']);

  // A new name for an old file: the old name goes along, and its former twin (which the copy-up left) does not.
  linkSync(`${layer.merged}/old`, `${layer.merged}/new`);
  assert.deepEqual(list(layer.merged, base, 'core', options), ['C /c', 'A /new']);
  assert.deepEqual(carried(layer.merged, base, options), ['linked /b', 'linked /old']);
});

test('walkChanges() does not list a hard link that a copy-up broke and nothing else changed', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(base);
  writeFileSync(`${base}/a`, 'text');
  linkSync(`${base}/a`, `${base}/b`);
  using layer = overlay(`${dir.path}/layer`, [base]);
  applyEdits(layer.merged, [{ do: 'rewrite', path: 'b' }]);
  assert.deepEqual(list(layer.merged, base, 'core', { upper: b(layer.upper) }), []);
});

test('walkChanges() compares what a moved directory shows, though number and ctime are those of an inode elsewhere', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  await using below = await tmpfs();
  await using above = await tmpfs();
  // On two filesystems that were made alike, two files get one number; and one ctime, in one tick of the clock.
  const [one, other] = [`${below.path}/a`, `${above.path}/b`];
  for (const path of [one, other]) mkdirSync(path);
  const stats = (): { ino: bigint; ctimeNs: bigint }[] =>
    [one, other].map((path) => lstatSync(`${path}/f`, { bigint: true }));
  let alike = false;
  for (let tries = 0; tries < 2000 && !alike; tries++) {
    for (const path of [one, other]) rmSync(`${path}/f`, { force: true });
    writeFileSync(`${one}/f`, 'one');
    writeFileSync(`${other}/f`, 'two2');
    const [x, y] = stats();
    alike = x?.ino === y?.ino && x?.ctimeNs === y?.ctimeNs;
  }
  assert.ok(alike, 'two files of one number and ctime could not be made');
  using layer = overlay(`${dir.path}/layer`, [above.path, below.path], 'index=off,redirect_dir=on');
  using base = overlay(`${dir.path}/base`, [above.path, below.path], 'index=off,redirect_dir=on');
  rmSync(`${layer.merged}/b`, { recursive: true });
  renameSync(`${layer.merged}/a`, `${layer.merged}/b`);
  const expected = ['D /a', 'C /b/f'];
  const upper = b(layer.upper);
  assert.deepEqual(list(layer.merged, base.merged, 'core', { upper }), expected);
  assert.deepEqual(list(layer.merged, base.merged, 'core', { upper, guide: 'overlay' }), expected);
});

test('walkDifferences() carries directories whose time alone differs, and the root where more than its time does', async () => {
  await using dir = await scratch('walk');
  const [base, view] = [`${dir.path}/base`, `${dir.path}/view`];
  mkdirSync(`${base}/d/e`, { recursive: true });
  mkdirSync(view);
  copyTree(b(base), b(view));
  applyEdits(view, [
    { do: 'touch', path: 'd/e' },
    { do: 'touch', path: '' },
  ]);
  assert.deepEqual(list(view, base, 'core'), []);
  assert.deepEqual(carried(view, base), ['times /d/e']);
  applyEdits(view, [{ do: 'chmod', path: '', mode: 0o711 }]);
  assert.deepEqual(carried(view, base), ['root /', 'times /d/e']);
});

test('walkChanges() takes a device 0:0 in a plain layer directory for absence', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(base);
  applyEdits(base, BASE);
  using layer = overlay(`${dir.path}/layer`, [base]);
  applyEdits(layer.merged, [{ do: 'delete', path: 'same' }]);
  assert.deepEqual(list(layer.upper, undefined, 'core'), []);
  mkdirSync(`${dir.path}/view`);
  writeFileSync(`${dir.path}/view/same`, '');
  assert.deepEqual(list(`${dir.path}/view`, layer.upper, 'core'), ['A /same']);
});

test('walkChanges() reads trees deeper than PATH_MAX with few descriptors', async () => {
  await using dir = await scratch('walk');
  const [base, view] = [`${dir.path}/base`, `${dir.path}/view`];
  mkdirSync(base);
  mkdirSync(view);
  const script =
    'import os,sys\nos.chdir(sys.argv[1])\nfor i in range(1200):\n os.mkdir("directory"); os.chdir("directory")\nopen("f","w").write(sys.argv[2])';
  for (const [root, text] of [
    [base, 'one'],
    [view, 'two'],
  ] as const) {
    assert.equal(spawnSync('python3', ['-c', script, root, text]).status, 0);
  }
  try {
    const changes = [...walkChanges(b(view), b(base), 'core')];
    assert.deepEqual(
      changes.map((change) => change.path.length),
      [1200 * 10 + 2],
    );
  } finally {
    for (const root of [base, view]) spawnSync('rm', ['-rf', root]);
  }
});

test('core(walk) with the upper as a hint = core(walk) that reads everything (invariant 6)', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  let run = 0;
  fc.assert(
    fc.property(making(20), edits(20), fc.constantFrom('off', 'on'), (made, changing, redirect) => {
      const at = `${dir.path}/${++run}`;
      mkdirSync(`${at}/base`, { recursive: true });
      applyEdits(`${at}/base`, made);
      using layer = overlay(`${at}/layer`, [`${at}/base`], `index=off,redirect_dir=${redirect}`);
      applyEdits(layer.merged, changing);
      const base = `${at}/base`;
      const hint = { upper: b(layer.upper) };
      assert.deepEqual(list(layer.merged, base, 'core', hint), list(layer.merged, base, 'core'));
      assert.deepEqual(carried(layer.merged, base, hint), carried(layer.merged, base));
      const listed = new Set(list(layer.merged, base, 'core').map((line) => line.slice(2)));
      assertTruth(treeEntries(layer.merged, 'loose'), treeEntries(base, 'loose'), listed);
    }),
    { numRuns: 60 },
  );
});

/** Every path whose line differs is listed, or lies below a listed one; link groups aside (other tests). */
function assertTruth(view: readonly TreeEntry[], base: readonly TreeEntry[], listed: ReadonlySet<string>): void {
  const table = (entries: readonly TreeEntry[]): Map<string, string> =>
    new Map(entries.slice(1).map(({ path, looks }) => [path, looks]));
  const [now, before] = [table(view), table(base)];
  for (const path of new Set([...now.keys(), ...before.keys()])) {
    if (now.get(path) === before.get(path)) continue;
    const parents = path.split('/').map((_, i, parts) => parts.slice(0, i + 1).join('/'));
    assert.ok(
      parents.some((parent) => listed.has(parent)),
      `${path} is not listed`,
    );
  }
}
