import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { sha256 as byNode } from '../../src/base/crypto.ts';
import { digestOf as digestByNode } from '../../src/base/digest.ts';
import { digestOf, sha256 } from '../../src/linux/sha256.ts';
import { MISSING, replacingFunctions } from '../kit/hidden-functions.ts';

const SHA256 = fileURLToPath(new URL('../../src/linux/sha256.ts', import.meta.url));

test('sha256() gives what node:crypto gives, of any pieces, in memory of one thread or of several', () => {
  const shared = Buffer.from(new SharedArrayBuffer(1 << 16));
  for (let i = 0; i < shared.length; i++) shared[i] = i * 31;
  const pieces = fc.array(
    fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.string({ unit: 'binary', maxLength: 20 }),
      fc.tuple(fc.nat(60_000), fc.nat(70_000)).map(([from, length]) => shared.subarray(from, from + length)),
    ),
    { maxLength: 12 },
  );
  fc.assert(
    fc.property(pieces, (all) => {
      const [ours, other, expected] = [sha256(), sha256(), createHash('sha256')];
      for (const piece of all) {
        ours.update(piece);
        other.update('at the same time');
        expected.update(piece);
      }
      const hex = expected.digest('hex');
      assert.equal(ours.digest('hex'), hex);
      const text = all.filter((piece) => typeof piece === 'string').join('');
      assert.equal(digestOf(text), digestByNode(text));
    }),
    { numRuns: 500 },
  );
  assert.deepEqual(sha256().update('a').digest(), byNode().update('a').digest());
});

/** What a process prints that may look for other functions than there are, and whether it had to load node:crypto. */
function inAnother(prepare: string): string {
  const script = `
    ${prepare}
    const { sha256 } = await import(${JSON.stringify(SHA256)});
    const hex = sha256().update('abc').digest('hex');
    const loaded = process.moduleLoadList.includes('NativeModule internal/crypto/hash');
    console.log(hex, loaded);`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
  return stdout.trim();
}

const ABC = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad';

test('sha256() loads node:crypto only where this Node hides the functions, or has others of their names', () => {
  assert.equal(inAnother(''), `${ABC} false`);
  assert.equal(inAnother(replacingFunctions(/SHA256_/, MISSING)), `${ABC} true`);
  assert.equal(inAnother(replacingFunctions(/SHA256_/, '() => 1')), `${ABC} true`);
});
