import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { digestOf } from '../../src/base/digest.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { chainIds } from '../../src/oci/chain-id.ts';
import { defaultPlatform, formatPlatform, parsePlatform, platformRank } from '../../src/oci/platform.ts';
import { familiarReference, formatReference, parseReference } from '../../src/oci/reference.ts';

const D = digestOf('x');
const invalid = (error: unknown): boolean => isStorageError(error, 'invalid-argument') && !error.message.includes('\n');

test('parseReference() fills in what Docker fills in', () => {
  const table: readonly (readonly [string, string, string])[] = [
    ['x', 'docker.io/library/x:latest', 'x:latest'],
    ['x:1', 'docker.io/library/x:1', 'x:1'],
    ['library/x:1', 'docker.io/library/x:1', 'x:1'],
    ['docker.io/x', 'docker.io/library/x:latest', 'x:latest'],
    ['index.docker.io/o/x', 'docker.io/o/x:latest', 'o/x:latest'],
    ['o/x:1', 'docker.io/o/x:1', 'o/x:1'],
    ['localhost/x', 'localhost/x:latest', 'localhost/x:latest'],
    ['localhost:5000/x', 'localhost:5000/x:latest', 'localhost:5000/x:latest'],
    ['ghcr.io/o/x:V1.2_3-4', 'ghcr.io/o/x:V1.2_3-4', 'ghcr.io/o/x:V1.2_3-4'],
    ['UPPER/x', 'UPPER/x:latest', 'UPPER/x:latest'],
    ['[::1]:5000/x', '[::1]:5000/x:latest', '[::1]:5000/x:latest'],
    [`x@${D}`, `docker.io/library/x@${D}`, `x@${D}`],
    [`x:1@${D}`, `docker.io/library/x:1@${D}`, `x:1@${D}`],
    ['a__b/c--d/e.f', 'docker.io/a__b/c--d/e.f:latest', 'a__b/c--d/e.f:latest'],
    ['docker.io/a.b/c', 'docker.io/a.b/c:latest', 'docker.io/a.b/c:latest'],
    ['docker.io/library/a/b', 'docker.io/library/a/b:latest', 'library/a/b:latest'],
  ];
  for (const [text, full, short] of table) {
    assert.equal(formatReference(parseReference(text)), full, text);
    assert.equal(familiarReference(parseReference(text)), short, text);
    assert.deepEqual(parseReference(short), parseReference(text), text);
  }
});

test('parseReference() refuses what Docker refuses', () => {
  const bad = [
    '',
    ':',
    ':1',
    'x:',
    '@',
    `@${D}`,
    'X',
    'a/X',
    'a//b',
    '/a',
    'a/',
    'a b',
    '-a',
    'a-',
    'a..b',
    'a___b',
    'x:-1',
    'x:a b',
    `x:${'a'.repeat(129)}`,
    'x@sha256:12',
    `x@${D.toUpperCase()}`,
    `x@sha512:${'a'.repeat(128)}`,
    'a'.repeat(256),
    'a'.repeat(64),
    '-h.io/x',
    'h.io:p/x',
    'x:1:2',
    '../x',
    'a/../b',
    'x\n',
    'x\0',
    'ü',
    'http://x/y',
    'a/b:1/c',
  ];
  for (const text of bad) assert.throws(() => parseReference(text), invalid, JSON.stringify(text));
});

test('familiarReference() of any reference is read back as the same one', () => {
  const part = fc.stringMatching(/^[a-z0-9]{1,5}(?:[._-][a-z0-9]{1,3}){0,2}$/);
  const host = fc.constantFrom('docker.io', 'localhost', 'localhost:5000', 'ghcr.io', 'a.b:1');
  const tag = fc.stringMatching(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,8}$/);
  fc.assert(
    fc.property(host, fc.array(part, { minLength: 1, maxLength: 3 }), tag, (domain, path, version) => {
      const reference = parseReference(`${domain}/${path.join('/')}:${version}`);
      assert.deepEqual(parseReference(familiarReference(reference)), reference);
      assert.deepEqual(parseReference(formatReference(reference)), reference);
    }),
    { numRuns: 500 },
  );
});

test('parsePlatform() spells as containerd does', () => {
  const table: readonly (readonly [string, string])[] = [
    ['linux/amd64', 'linux/amd64'],
    ['linux/x86_64/v1', 'linux/amd64'],
    ['linux/amd64/v3', 'linux/amd64/v3'],
    ['linux/arm64/v8', 'linux/arm64'],
    ['Linux/AArch64/8', 'linux/arm64'],
    ['linux/arm', 'linux/arm/v7'],
    ['linux/armel', 'linux/arm/v6'],
    ['linux/arm/6', 'linux/arm/v6'],
    ['arm64', 'linux/arm64'],
    ['i386', 'linux/386'],
    ['windows/amd64', 'windows/amd64'],
  ];
  for (const [text, shown] of table) assert.equal(formatPlatform(parsePlatform(text)), shown, text);
  for (const text of ['', '/', 'linux/', 'a/b/c/d', 'what', 'linux/a b', 'constructor']) {
    assert.throws(() => parsePlatform(text), invalid, text);
  }
  assert.match(formatPlatform(defaultPlatform()), /^linux\//);
});

test('platformRank() takes older variants and nothing else', () => {
  const rank = (want: string, have: string): number => platformRank(parsePlatform(want), parsePlatform(have)) ?? -1;
  assert.ok(rank('linux/amd64', 'linux/amd64') > 0);
  assert.equal(rank('linux/amd64', 'linux/386'), -1);
  assert.equal(rank('linux/amd64', 'linux/amd64/v2'), -1);
  assert.equal(rank('linux/amd64', 'windows/amd64'), -1);
  assert.equal(rank('linux/arm64', 'linux/arm/v7'), -1);
  assert.ok(rank('linux/arm/v7', 'linux/arm/v7') > rank('linux/arm/v7', 'linux/arm/v6'));
  assert.ok(rank('linux/arm/v7', 'linux/arm/v6') > rank('linux/arm/v7', 'linux/arm/v5'));
  assert.equal(rank('linux/arm/v6', 'linux/arm/v7'), -1);
  assert.ok(rank('linux/amd64/v3', 'linux/amd64') > 0);
});

test('chainIds() is the base diff id, then the digest of parent and diff id as text', () => {
  const [a, b, c] = [digestOf('a'), digestOf('b'), digestOf('c')];
  const ab = digestOf(`${a} ${b}`);
  assert.deepEqual(chainIds([a, b, c]), [a, ab, digestOf(`${ab} ${c}`)]);
  assert.deepEqual(chainIds([]), []);
});
