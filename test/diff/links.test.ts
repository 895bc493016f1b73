import assert from 'node:assert/strict';
import { linkSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { fromText } from '../../src/base/bytes.ts';
import { countLinks, type Links, see, strayLink } from '../../src/diff/links.ts';
import { need } from '../kit/require.ts';
import { overlay, tmpfs } from './overlay.ts';

const b = fromText;
/** Directories of the base; `a` and `b/c` are moved, `z` stays. */
const PLACES = ['a', 'a/d', 'a/d/e', 'a/d/e/f', 'a/d/g', 'a/h/i', 'a/h/j', 'b/c', 'b/c/k/l', 'b/c/k/m', 'z'];
/** For each inode: in which of them it has a name. */
const names = fc.array(fc.uniqueArray(fc.nat(PLACES.length - 1), { minLength: 1, maxLength: 4 }), { maxLength: 8 });

function told(links: Links): string[] {
  return [...links].map(([key, { nlink, seen }]) => `${key} ${seen} of ${nlink}`).sort();
}

test('countLinks() by threads that share the names finds what one finds: the inodes that have names elsewhere', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  let runs = 0;
  let stray = 0;
  fc.assert(
    fc.property(names, (inodes) => {
      const at = `${dir.path}/${runs++}`;
      for (const place of PLACES) mkdirSync(`${at}/base/${place}`, { recursive: true });
      for (const [i, [first = 0, ...others]] of inodes.entries()) {
        writeFileSync(`${at}/base/${PLACES[first]}/n${i}`, '');
        for (const other of others) linkSync(`${at}/base/${PLACES[first]}/n${i}`, `${at}/base/${PLACES[other]}/n${i}`);
      }
      using layer = overlay(`${at}/layer`, [`${at}/base`], 'index=off,redirect_dir=on');
      renameSync(`${layer.merged}/a`, `${layer.merged}/moved`);
      renameSync(`${layer.merged}/b/c`, `${layer.merged}/c`);
      const count = (index: number, of: number): Links =>
        countLinks(b(layer.merged), { upper: b(layer.upper), style: 'overlay' }, () => {}, { index, of });
      const alone = count(0, 1);
      const elsewhere = inodes.filter((places) => places.includes(10) && places.length > 1);
      assert.equal(alone.size, elsewhere.length);
      assert.equal(strayLink(alone) === undefined, elsewhere.length === 0);
      stray += elsewhere.length;
      for (const threads of [2, 3]) {
        const together = count(0, threads);
        for (let index = 1; index < threads; index++)
          for (const [key, one] of count(index, threads)) see(together, key, one);
        assert.deepEqual(told(together), told(alone));
      }
    }),
    { numRuns: 60 },
  );
  assert.ok(stray > 20, `${stray} with names elsewhere`);
});
