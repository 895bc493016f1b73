import assert from 'node:assert/strict';
import { mkdirSync, rmSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { fromText, quote } from '../../src/base/bytes.ts';
import type { Rendering } from '../../src/diff/types.ts';
import { walkChanges } from '../../src/diff/walk.ts';
import { type RawMount, upperChanges, writeUpperdir } from '../../src/index.ts';
import { tmpfs } from '../diff/overlay.ts';
import { need } from '../kit/require.ts';
import { mounted, play, readingMode, type Script, script } from './overlay-scripts.ts';

// The law of upper.test.ts through the library's door: by the upper and by the walk it gives what the trees differ in.

const b = fromText;
const SCRIPTS = 6 * Number(process.env['LAYERSTORE_LAW_FACTOR'] ?? 1);

const MODES: readonly string[] = [
  'redirect_dir=nofollow,metacopy=off',
  'redirect_dir=on,metacopy=off',
  'redirect_dir=on,metacopy=on',
  'userxattr',
].flatMap((mode) => [`index=off,${mode}`, `index=on,${mode}`]);

/** A moved directory, with a file that has a name elsewhere. */
const STRAYED: Script = {
  layers: [
    [
      { do: 'mkdir', path: 'a' },
      { do: 'create', path: 'a/file', seed: 3 },
      { do: 'link', path: 'a/file', to: 'name' },
    ],
    [{ do: 'create', path: 'new', seed: 5 }],
    [{ do: 'rename', path: 'a', to: 'c' }],
  ],
  offline: [],
};

async function whole(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(chunks));
}

for (const mode of MODES) {
  test(`upperChanges() and writeUpperdir() give what the walk gives, and what the trees differ in: ${mode}`, async (t) => {
    if (!need(t, 'mount')) return;
    await using dir = await tmpfs();
    let run = 0;
    await fc.assert(
      fc.asyncProperty(script, async ({ layers }) => {
        rmSync(`${dir.path}/${run}`, { recursive: true, force: true });
        const at = `${dir.path}/${++run}`;
        mkdirSync(`${at}/none`, { recursive: true });
        const [upper = '', ...lowers] = play(at, { layers, offline: [] }, mode);
        const lower = `lowerdir=${[...lowers, `${at}/none`].join(':')}`;
        const work = upper.replace(/l(\d+)$/, 'w$1');
        const raw = (...options: readonly string[]): readonly RawMount[] => [
          { type: 'overlay', source: b('overlay'), options: [...mode.split(','), ...options].map(b) },
        ];
        const [below, above] = [raw(lower), raw(lower, `upperdir=${upper}`, `workdir=${work}`)];
        for (const rendering of ['core', 'docker'] satisfies Rendering[]) {
          // What an index shows only the mount itself does.
          const showing = mode.startsWith('index=on')
            ? `${mode},${lower},upperdir=${upper},workdir=${work}`
            : `${readingMode(mode)},${lower.replace('=', `=${upper}:`)}`;
          using _view = mounted(`${at}/view-${rendering}`, showing);
          using _base = mounted(`${at}/base-${rendering}`, `${readingMode(mode)},${lower}`);
          const trees = walkChanges(b(`${at}/view-${rendering}`), b(`${at}/base-${rendering}`), rendering);
          const expected = [...trees].map(({ kind, path }) => `${kind} ${quote(path)}`);
          for (const walk of [false, true]) {
            const changes = await Array.fromAsync(upperChanges(below, above, { rendering, walk }));
            assert.deepEqual(
              changes.map(({ kind, path }) => `${kind} ${quote(path)}`),
              expected,
            );
          }
        }
        const tars = [false, true].map((walk) => whole(writeUpperdir(below, above, { walk })));
        const [one, other] = await Promise.all(tars);
        assert.ok(one?.equals(other as Buffer), 'the tars differ');
      }),
      { numRuns: SCRIPTS, examples: [[STRAYED]] },
    );
  });
}
