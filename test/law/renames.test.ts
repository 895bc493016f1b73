import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText, quote } from '../../src/base/bytes.ts';
import type { Change } from '../../src/base/values.ts';
import { renamedDirectories } from '../../src/diff/renames.ts';
import type { Rendering } from '../../src/diff/types.ts';
import { listChanges } from '../../src/graph/jobs/list.ts';
import type { Views } from '../../src/graph/jobs/views.ts';
import { tmpfs } from '../diff/overlay.ts';
import { need } from '../kit/require.ts';
import { treeEntries } from '../kit/tree-dump.ts';
import { AWAY, mounted, play, readingMode, type Script, script } from './overlay-scripts.ts';

// A list in which each moved directory is one line tells the whole change. LAYERSTORE_LAW_FACTOR as in upper.test.ts.

const b = fromText;
const SCRIPTS = 250 * Number(process.env['LAYERSTORE_LAW_FACTOR'] ?? 1);

/** By path: what lies there, as far as a list tells of it: no links, no times of directories. */
type Tree = Map<ByteString, string>;

function treeOf(root: string, rendering: Rendering): Tree {
  const seen = (looks: string): string =>
    // Docker's sees no attribute but the capability.
    rendering === 'core' ? looks : looks.replace(/ "(?:user|system)\.(?:[^"\\]|\\.)*"=[0-9a-f]*/g, '');
  return new Map(
    treeEntries(root, 'loose')
      .slice(1)
      .map(({ path, looks }) => [path, seen(looks)]),
  );
}

function below(path: ByteString, top: ByteString): boolean {
  return path === top || path.startsWith(`${top}/`);
}

function join(one: ByteString, other: string): ByteString {
  return `${one}${other}` as ByteString;
}

/** Does to the paths of `base` what the records say; what they add or modify becomes as `view` has it. */
function replay(base: Tree, view: Tree, records: readonly Change[]): Tree {
  const result: Tree = new Map(base);
  const take = (top: ByteString): Map<string, string> => {
    const taken = new Map<string, string>();
    for (const [path, looks] of result) if (below(path, top)) taken.set(path.slice(top.length), looks);
    for (const path of taken.keys()) result.delete(join(top, path));
    return taken;
  };
  const renames = records
    .filter(({ kind }) => kind === 'rename')
    .map(({ path, from }) => [from as ByteString, path] as const);
  // Inner ones first, as they were in the base; then what goes, then they come to where they are, outer ones first.
  const taken = new Map(
    renames.toSorted((a, b) => b[0].length - a[0].length).map(([from, to]) => [to, take(from)] as const),
  );
  const places = renames.map(([, to]) => to);
  /** The innermost directory that was moved and that the path is in. */
  const moved = (path: ByteString): ByteString | undefined =>
    places.filter((to) => path !== to && below(path, to)).toSorted((one, other) => other.length - one.length)[0];
  const deletes = records.filter(({ kind }) => kind === 'delete').map(({ path }) => path);
  for (const path of deletes.filter((one) => moved(one) === undefined)) take(path);
  for (const to of places.toSorted((one, other) => one.length - other.length)) {
    const inside = taken.get(to) as Map<string, string>;
    for (const path of deletes.filter((one) => moved(one) === to)) {
      for (const at of [...inside.keys()]) if (below(join(to, at), path)) inside.delete(at);
    }
    for (const [path, looks] of inside) result.set(join(to, path), looks);
  }
  for (const { kind, path } of records) {
    if (kind !== 'add' && kind !== 'modify') continue;
    const looks = view.get(path) as string;
    if (!looks.startsWith('directory ')) take(path); // what was in a directory goes with it
    result.set(path, looks);
  }
  return result;
}

/** A moved directory in a moved one, which no run of random scripts is certain to have. */
const INSIDE: Script = {
  layers: [
    [
      { do: 'mkdir', path: 'a' },
      { do: 'mkdir', path: 'a/b' },
      { do: 'create', path: 'a/b/ä', seed: 2 },
      { do: 'create', path: 'a/b/b', seed: 3 },
    ],
    [
      { do: 'rename', path: 'a', to: 'c' },
      { do: 'rename', path: 'c/b', to: 'c/a' },
      { do: 'delete', path: 'c/a/b' },
    ],
  ],
  offline: [],
};

function lines(tree: Tree): string[] {
  return [...tree].map(([path, looks]) => `${quote(path)} ${looks}`).toSorted();
}

for (const rendering of ['core', 'docker'] as const) {
  for (const metacopy of ['off', 'on']) {
    test(`${rendering}(upper) with collapsed renames, done to the base, gives the view: metacopy=${metacopy}`, async (t) => {
      if (!need(t, 'mount')) return;
      await using dir = await tmpfs();
      const mode = `index=off,redirect_dir=on,metacopy=${metacopy}`;
      const count = { run: 0, renamed: 0, inside: 0, left: 0, returned: 0 };
      fc.assert(
        fc.property(script, ({ layers }) => {
          rmSync(`${dir.path}/${count.run}`, { recursive: true, force: true });
          const at = `${dir.path}/${++count.run}`;
          mkdirSync(at);
          const [upper = '', ...lowers] = play(at, { layers, offline: [] }, mode);
          mkdirSync(`${at}/none`);
          using _view = mounted(`${at}/view`, `${readingMode(mode)},lowerdir=${[upper, ...lowers].join(':')}`);
          using _base = mounted(`${at}/base`, `${readingMode(mode)},lowerdir=${[...lowers, `${at}/none`].join(':')}`);
          const [view, base] = [b(`${at}/view`), b(`${at}/base`)];
          const renames = renamedDirectories(b(upper), base, 'overlay');
          for (const [path, from] of renames) {
            const [above, came] = [...renames]
              .filter(([to]) => path !== to && below(path, to))
              .toSorted((one, other) => other[0].length - one[0].length)[0] ?? ['', ''];
            count.inside += above === '' ? 0 : 1;
            const left = [...renames.values()].some(
              (other) => other.length > came.length && other !== from && below(from, other),
            );
            if (left) count.left++;
            else
              assert.notEqual(
                from,
                `${came}${path.slice(above.length)}`,
                'what came back to where it was is no rename',
              );
          }
          count.renamed += renames.size;
          if (layers.at(-1)?.some((edit) => edit.do === 'rename' && edit.path === AWAY) === true) count.returned++;
          // As a job lists.
          const reading = { upper: b(upper), style: 'overlay', noIndex: true } as const;
          const views: Views = { view: { type: 'bind', source: view, readonly: true }, scratch: b(at) };
          const context = { check: () => {}, done: () => {} };
          const given = listChanges(views, { view, base, upper: reading }, context, { rendering, renames: true });
          const records = [...given].flatMap((found) => found ?? []);
          assert.deepEqual(
            records.flatMap(({ kind, path, from }) => (kind === 'rename' ? [[path, from]] : [])).toSorted(),
            [...renames].toSorted(),
          );
          const whole = treeOf(`${at}/view`, rendering);
          assert.deepEqual(lines(replay(treeOf(`${at}/base`, rendering), whole, records)), lines(whole));
        }),
        { numRuns: SCRIPTS, examples: [[INSIDE]] },
      );
      t.diagnostic(JSON.stringify(count));
      assert.ok(count.renamed > count.run / 10 && count.returned > count.run / 20);
      assert.ok(count.inside > 0);
    });
  }
}
