import assert from 'node:assert/strict';
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fromText } from '../../src/base/bytes.ts';
import { HELD_MAX, walkPlain } from '../../src/diff/plain.ts';
import { walkChanges } from '../../src/diff/walk.ts';
import type { Change } from '../../src/index.ts';
import { isStorageError } from '../../src/index.ts';
import { need } from '../kit/require.ts';
import { overlay, tmpfs } from './overlay.ts';

const b = fromText;

/** What was given out, in order, how often nothing was, and how it ended. */
function taken(walk: Generator<readonly Change[] | undefined, boolean>) {
  const given: string[] = [];
  let held = 0;
  try {
    for (;;) {
      const { done, value } = walk.next();
      if (done) return { given, held, end: value };
      if (value === undefined) held++;
      else given.push(...value.map(({ kind, path }) => `${kind} ${path}`));
    }
  } catch (error) {
    if (!isStorageError(error)) throw error;
    return { given, held, end: error.code };
  }
}

for (const [rendering, files] of [10, HELD_MAX + 10].flatMap((n) => [['core', n] as const, ['docker', n] as const])) {
  test(`walkPlain() of ${files} files gives, in the rendering ${rendering}, all that the walk gives, and nothing before it has seen the last directory`, async (t) => {
    if (!need(t, 'mount')) return;
    await using dir = await tmpfs();
    mkdirSync(`${dir.path}/base/zz/was`, { recursive: true });
    using layer = overlay(`${dir.path}/layer`, [`${dir.path}/base`], 'redirect_dir=on');
    for (let i = 0; i < files; i++) writeFileSync(`${layer.merged}/f${i}`, '');
    const [view, base, upper] = [b(layer.merged), b(`${dir.path}/base`), b(layer.upper)];
    const waits = Math.floor(Math.min(files, HELD_MAX) / 64);
    const walk = (foreign = false): ReturnType<typeof taken> =>
      taken(walkPlain(view, base, rendering, { upper, style: 'overlay', noIndex: true, foreign }, { upper }));
    const whole = [...walkChanges(view, base, rendering)].map(({ kind, path }) => `${kind} ${path}`);
    assert.deepEqual(walk(), { given: whole, held: waits, end: true });

    writeFileSync(`${layer.merged}/zz/.wh.gone`, '');
    assert.deepEqual(walk(true), { given: [], held: waits, end: 'unsupported' });
    assert.equal(walk(false).given.length, files + (rendering === 'core' ? 1 : 2)); // /zz itself
    rmSync(`${layer.merged}/zz/.wh.gone`);

    renameSync(`${layer.merged}/zz/was`, `${layer.merged}/zz/now`);
    const { given, end } = walk(true);
    assert.deepEqual({ given, end }, { given: [], end: false });
  });
}
