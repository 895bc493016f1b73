import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText, quote } from '../../src/base/bytes.ts';
import { packTree } from '../../src/diff/pack.ts';
import type { Rendering, WalkOptions } from '../../src/diff/types.ts';
import { type UpperReading, whyNotUpper } from '../../src/diff/upper.ts';
import { walkChanges, walkDifferences } from '../../src/diff/walk.ts';
import { copyTree } from '../../src/fs/copy.ts';
import { showIndexed } from '../../src/graph/jobs/indexed.ts';
import { listChanges } from '../../src/graph/jobs/list.ts';
import { type Views, walkOptions } from '../../src/graph/jobs/views.ts';
import { isStorageError, type StorageError } from '../../src/index.ts';
import { tmpfs } from '../diff/overlay.ts';
import { applyByGnuTar } from '../kit/gnu-apply.ts';
import { need } from '../kit/require.ts';
import { type TreeEntry, treeEntries } from '../kit/tree-dump.ts';
import { assertSame, isShownTwice } from './known-differences.ts';
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
  return [...walkChanges(b(view), b(base), rendering, options)].map(({ kind, path }) => `${kind} ${quote(path)}`);
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

const CONTEXT = { check: () => {}, done: () => {} };

/** What a job of the library is asked: how it walks, or why it does not, and its list. */
function asked(at: string, reading: UpperReading, indexed: ByteString | undefined) {
  const views: Views = { view: { type: 'bind', source: b(`${at}/view`), readonly: true }, scratch: b(at) };
  const places = { view: b(`${at}/view`), base: b(`${at}/base`), upper: reading, ...(indexed && { indexed }) };
  return {
    options: tryTo(() => walkOptions(views, places, CONTEXT)),
    changes: (rendering: Rendering): string[] | StorageError =>
      tryTo(() => {
        const given = [...listChanges(views, places, CONTEXT, { rendering, renames: false })];
        return given.flatMap((found) => (found ?? []).map(({ kind, path }) => `${kind} ${quote(path)}`));
      }),
  };
}

for (const mode of MODES) {
  test(`core(upper) = core(walk), docker(upper) = docker(walk), and equal tars that give the view: ${mode} (invariant 6)`, async (t) => {
    if (!need(t, 'mount', 'tar')) return;
    await using dir = await tmpfs();
    const style = mode.endsWith('userxattr') ? 'overlay-userxattr' : 'overlay';
    const count = { run: 0, walked: 0, indexed: 0, refused: 0, unreadable: 0, applied: 0, known: 0 };
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
        using _view = mounted(`${at}/view`, `${readingMode(mode)},lowerdir=${[upper, ...lowers].join(':')}`, {
          detach: true,
        });
        using _base = mounted(`${at}/base`, `${readingMode(mode)},lowerdir=${[...lowers, `${at}/none`].join(':')}`);
        const [view, base] = [`${at}/view`, `${at}/base`];
        const work = upper.replace(/l(\d+)$/, 'w$1');
        const shown = tryTo(() => {
          if (mode.startsWith('index=off')) return undefined;
          using _scratch = mounted(`${at}/scratch`, '', { type: 'tmpfs', detach: true });
          const scratch = `${at}/scratch/index`;
          mkdirSync(scratch);
          return showIndexed({ work: b(work), upper: b(upper), lowers: lowers.map(b), style }, b(view), b(scratch));
        });
        if (isStorageError(shown, 'unsupported')) {
          count.refused++;
          return;
        }
        if (isStorageError(shown)) {
          // Edited so that the view cannot be read, which the walk says too.
          assert.ok(isEdited && shown.errno === 'EIO', String(shown));
          const whole = tryTo(() => list(view, base, 'core', {}));
          assert.ok(isStorageError(whole) && whole.errno === 'EIO');
          count.unreadable++;
          return;
        }
        if (shown !== undefined) count.indexed++;
        const reading = { upper: b(upper), style, noIndex: mode.startsWith('index=off'), foreign: true } as const;
        const job = asked(at, reading, shown);
        let guided = job.options;
        const whole = tryTo(() => list(view, base, 'core', {}));
        if (isStorageError(whole)) {
          assert.ok(isEdited && whole.errno === 'EIO');
          count.unreadable++;
          assert.ok(
            isStorageError(guided) || isStorageError(tryTo(() => list(view, base, 'core', guided as WalkOptions))),
          );
          assert.ok(isStorageError(job.changes('core')));
          return;
        }
        if (isStorageError(guided)) {
          assert.ok(isEdited && guided.code === 'corrupt'); // moved away from where its mark leads
          const refused = job.changes('core');
          assert.ok(isStorageError(refused, 'corrupt') && refused.message === guided.message);
          guided = { upper: reading.upper, ...(whyNotUpper(b(view), reading) === undefined && { guide: style }) };
        }
        if (guided.guide === undefined) count.walked++;
        for (const rendering of ['core', 'docker'] as const) {
          const expected = list(view, base, rendering, {});
          assert.deepEqual(list(view, base, rendering, guided), expected, rendering);
          if (!isStorageError(job.options))
            assert.deepEqual(job.changes(rendering), expected, `${rendering}, by a job`);
        }
        if (isEdited && isShownTwice(treeEntries(view))) return;
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
        const scene = { mode, upper, base: treeEntries(base), view: treeEntries(view) };
        if (written !== undefined) {
          count.known += assertSame(scene, 'written', written).length;
        }
        if (lot !== 0) return;
        count.applied++;
        mkdirSync(`${at}/copy`);
        copyTree(b(base), b(`${at}/copy`));
        applyByGnuTar(one, `${at}/copy`);
        count.known += assertSame(scene, 'applied', treeEntries(`${at}/copy`)).length;
      }),
      { numRuns: SCRIPTS },
    );
    const { run, walked, unreadable } = count;
    t.diagnostic(JSON.stringify(count));
    if (run < SCRIPTS) return; // one that failed, again
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
