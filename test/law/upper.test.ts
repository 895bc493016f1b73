import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText, toText } from '../../src/base/bytes.ts';
import type { Change } from '../../src/base/values.ts';
import { packTree } from '../../src/diff/pack.ts';
import type { Rendering, WalkOptions } from '../../src/diff/types.ts';
import { renamedDirectories, type UpperReading, whyNotUpper } from '../../src/diff/upper.ts';
import { walkChanges, walkDifferences } from '../../src/diff/walk.ts';
import { copyTree } from '../../src/fs/copy.ts';
import { type Views, walkOptions } from '../../src/graph/jobs/views.ts';
import { isStorageError, type StorageError } from '../../src/index.ts';
import { tmpfs } from '../diff/overlay.ts';
import { applyByGnuTar } from '../kit/gnu-apply.ts';
import { need } from '../kit/require.ts';
import { dumpTree, type TreeEntry, treeEntries } from '../kit/tree-dump.ts';
import { assertSame } from './known-differences.ts';
import { mounted, play, readingMode, script } from './overlay-scripts.ts';

// core(upper) = core(walk), on real mounts in every mode that the kernel takes. fast-check prints seed and path of a
// failure; LAYERSTORE_LAW_FACTOR=100 runs for hours.

const b = fromText;
/** One script of so many has its tar applied. */
const APPLIED_OF = 3;
const SCRIPTS = 250 * Number(process.env['LAYERSTORE_LAW_FACTOR'] ?? 1);

/** What an overlay is mounted with, beside its directories. */
const MODES: readonly string[] = [
  'redirect_dir=off,metacopy=off',
  'redirect_dir=nofollow,metacopy=off',
  'redirect_dir=on,metacopy=off',
  'redirect_dir=on,metacopy=on',
  'userxattr',
].flatMap((mode) => [`index=off,${mode}`, `index=on,${mode}`]);

function list(view: string, base: string, rendering: Rendering, options: WalkOptions): string[] {
  return [...walkChanges(b(view), b(base), rendering, options)].map(({ kind, path }) => `${kind} ${toText(path)}`);
}

function tryTo<T>(task: () => T): T | StorageError {
  try {
    return task();
  } catch (error) {
    if (isStorageError(error)) return error;
    throw error;
  }
}

function tar(view: string, base: string, options: WalkOptions): Buffer {
  const chunks: Buffer[] = [];
  const reading = options.upper === undefined ? {} : { upper: options.upper };
  packTree(b(view), walkDifferences(b(view), b(base), options), reading, (bytes) => chunks.push(Buffer.from(bytes)));
  return Buffer.concat(chunks);
}

/** As a job of the library walks; or why it does not. */
function asked(at: string, reading: UpperReading): WalkOptions | StorageError {
  const views: Views = { view: { type: 'bind', source: b(`${at}/view`), readonly: true }, scratch: b(at) };
  const places = { view: b(`${at}/view`), base: b(`${at}/base`), upper: reading };
  return tryTo(() => walkOptions(views, places, { check: () => {}, done: () => {} }));
}

for (const mode of MODES) {
  test(`core(upper) = core(walk), docker(upper) = docker(walk), and equal tars that give the view: ${mode} (invariant 6)`, async (t) => {
    if (!need(t, 'mount', 'tar')) return;
    await using dir = await tmpfs();
    const style = mode.endsWith('userxattr') ? 'overlay-userxattr' : 'overlay';
    const count = { run: 0, walked: 0, unreadable: 0, applied: 0, known: 0 };
    fc.assert(
      fc.property(script, fc.nat({ max: APPLIED_OF - 1 }), (steps, lot) => {
        rmSync(`${dir.path}/${count.run}`, { recursive: true, force: true });
        const at = `${dir.path}/${++count.run}`;
        mkdirSync(at);
        let written: readonly TreeEntry[] | undefined;
        const look = (merged: string): void => {
          written = treeEntries(merged);
        };
        const isEdited = steps.offline.length > 0; // into what no kernel may have written, or can read
        const [upper = '', ...lowers] = play(at, steps, mode, isEdited ? {} : { written: look });
        mkdirSync(`${at}/none`);
        using _view = mounted(`${at}/view`, `${readingMode(mode)},lowerdir=${[upper, ...lowers].join(':')}`);
        using _base = mounted(`${at}/base`, `${readingMode(mode)},lowerdir=${[...lowers, `${at}/none`].join(':')}`);
        const [view, base] = [`${at}/view`, `${at}/base`];
        const reading = { upper: b(upper), style, noIndex: mode.startsWith('index=off'), foreign: true } as const;
        let guided = asked(at, reading);
        const whole = tryTo(() => list(view, base, 'core', {}));
        if (isStorageError(whole)) {
          assert.ok(isEdited && whole.errno === 'EIO');
          count.unreadable++;
          assert.ok(
            isStorageError(guided) || isStorageError(tryTo(() => list(view, base, 'core', guided as WalkOptions))),
          );
          return;
        }
        if (isStorageError(guided)) {
          assert.ok(isEdited && guided.code === 'corrupt'); // moved away from where its mark leads
          guided = { upper: reading.upper, ...(whyNotUpper(b(view), reading) === undefined && { guide: style }) };
        }
        if (guided.guide === undefined) count.walked++;
        for (const rendering of ['core', 'docker'] as const) {
          assert.deepEqual(list(view, base, rendering, guided), list(view, base, rendering, {}), rendering);
        }
        const [one, other] = [guided, {}].map((options) => tryTo(() => tar(view, base, options)));
        if (!Buffer.isBuffer(one) || !Buffer.isBuffer(other)) {
          // Edited into a file whose data are not what its metadata say.
          count.unreadable++;
          const what = (error: unknown): unknown[] => (isStorageError(error) ? [error.code, error.path] : [error]);
          assert.ok(isEdited);
          assert.deepEqual(what(one), what(other));
          return;
        }
        assert.ok(one.equals(other), 'the tars differ');
        const work = upper.replace(/l(\d+)$/, 'w$1');
        const scene = { mode, upper, work, base: treeEntries(base), view: treeEntries(view) };
        if (written !== undefined) count.known += assertSame(scene, 'written', written);
        if (lot !== 0) return;
        count.applied++;
        mkdirSync(`${at}/copy`);
        copyTree(b(base), b(`${at}/copy`));
        applyByGnuTar(one, `${at}/copy`);
        count.known += assertSame(scene, 'applied', treeEntries(`${at}/copy`));
      }),
      { numRuns: SCRIPTS },
    );
    const { run, walked, unreadable } = count;
    t.diagnostic(JSON.stringify(count));
    assert.ok(unreadable < run / 10);
    if (/index=off.*redirect_dir=(off|nofollow)|index=off,userxattr/.test(mode)) assert.equal(walked, 0);
    else assert.ok(walked > 0 && walked < run / 2);
  });
}

test('combinations of overlay options that the kernel refuses are refused as EINVAL', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  for (const name of ['l', 'u', 'w']) mkdirSync(`${dir.path}/${name}`);
  const places = `lowerdir=${dir.path}/l,upperdir=${dir.path}/u,workdir=${dir.path}/w`;
  const refused = [
    'userxattr,redirect_dir=on',
    'userxattr,redirect_dir=off',
    'userxattr,redirect_dir=follow',
    'userxattr,metacopy=on',
    'redirect_dir=off,metacopy=on',
    'redirect_dir=nofollow,metacopy=on',
  ];
  for (const [i, options] of refused.entries()) {
    assert.throws(
      () => mounted(`${dir.path}/m${i}`, `${options},${places}`),
      (error) => isStorageError(error) && error.errno === 'EINVAL',
      options,
    );
  }
});

/** What a tree is at each path: of which base path it is what it is, or new. */
type Tree = Map<string, string>;

function treeOf(root: string): Tree {
  return new Map(
    dumpTree(root)
      .slice(1)
      .map((line) => [JSON.parse(line.split(' ')[0] as string) as string, line]),
  );
}

function below(path: string, top: string): boolean {
  return path === top || path.startsWith(`${top}/`);
}

/** Does to the paths of `base` what the records say; what they add or modify becomes as `view` has it. */
function replay(base: Tree, view: Tree, records: readonly Change[]): Tree {
  const result: Tree = new Map(base);
  const take = (top: string): Tree => {
    const taken: Tree = new Map();
    for (const [path, line] of result) if (below(path, top)) taken.set(path.slice(top.length), line);
    for (const path of taken.keys()) result.delete(`${top}${path}`);
    return taken;
  };
  const renames = records
    .filter(({ kind }) => kind === 'rename')
    .map(({ path, from }) => [toText(from as ByteString), toText(path)] as const);
  // Inner ones first, as they were in the base; then what goes, then they come to where they are, outer ones first.
  const taken = new Map(
    renames.toSorted((a, b) => b[0].length - a[0].length).map(([from, to]) => [to, take(from)] as const),
  );
  const places = renames.map(([, to]) => to);
  /** The innermost directory that was moved and that the path is in. */
  const moved = (path: string): string | undefined =>
    places.filter((to) => path !== to && below(path, to)).toSorted((one, other) => other.length - one.length)[0];
  const deletes = records.filter(({ kind }) => kind === 'delete').map(({ path }) => toText(path));
  for (const path of deletes.filter((one) => moved(one) === undefined)) take(path);
  for (const to of places.toSorted((one, other) => one.length - other.length)) {
    const inside = taken.get(to) as Tree;
    for (const path of deletes.filter((one) => moved(one) === to)) {
      for (const at of [...inside.keys()]) if (below(`${to}${at}`, path)) inside.delete(at);
    }
    for (const [path, line] of inside) result.set(`${to}${path}`, line);
  }
  for (const { kind, path } of records) {
    if (kind !== 'add' && kind !== 'modify') continue;
    const line = view.get(toText(path)) as string;
    if (!/" directory /.test(line)) take(toText(path)); // what was in a directory goes with it
    result.set(toText(path), line);
  }
  return result;
}

test('changes with collapsed renames, done to the base, give the view; the other renderings stay as they are', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  let run = 0;
  let renamed = 0;
  fc.assert(
    fc.property(script, ({ layers }) => {
      rmSync(`${dir.path}/${run}`, { recursive: true, force: true });
      const at = `${dir.path}/${++run}`;
      mkdirSync(at);
      const mode = 'index=off,redirect_dir=on,metacopy=off';
      const [upper = '', ...lowers] = play(at, { layers, offline: [] }, mode);
      mkdirSync(`${at}/none`);
      using _view = mounted(`${at}/view`, `${readingMode(mode)},lowerdir=${[upper, ...lowers].join(':')}`);
      using _base = mounted(`${at}/base`, `${readingMode(mode)},lowerdir=${[...lowers, `${at}/none`].join(':')}`);
      const [view, base] = [b(`${at}/view`), b(`${at}/base`)];
      const renames = renamedDirectories(b(upper), base, 'overlay');
      renamed += renames.size;
      const options: WalkOptions = { upper: b(upper), guide: 'overlay', renames };
      const records = [...walkChanges(view, base, 'core', options)];
      assert.deepEqual(
        records.flatMap(({ kind, path, from }) => (kind === 'rename' ? [[path, from]] : [])).toSorted(),
        [...renames].toSorted(),
      );
      const loose = (tree: Tree): string[] => [...tree].map(([path, line]) => shape(path, line)).toSorted();
      const whole = treeOf(`${at}/view`);
      assert.deepEqual(loose(replay(treeOf(`${at}/base`), whole, records)), loose(whole));
    }),
    { numRuns: SCRIPTS },
  );
  assert.ok(renamed > run / 10, `${renamed} renames in ${run} scripts say little`);
});

/** What a list of changes tells: not the path that the line was made at, no link groups, no times of directories. */
function shape(path: string, line: string): string {
  const looks = line.replace(/^"(?:[^"\\]|\\.)*" /, '').replace(/ link=.*/, '');
  return `${path} ${looks.startsWith('directory ') ? looks.replace(/(\d+:\d+) \d+/, '$1') : looks}`;
}
