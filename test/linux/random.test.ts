import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { randomBytes, randomUUID } from '../../src/linux/random.ts';

test('randomBytes() fills all of any size, randomUUID() is one of version 4', () => {
  for (const size of [0, 1, 16, 257, 1 << 20]) {
    const [one, other] = [randomBytes(size), randomBytes(size)];
    assert.equal(one.length, size);
    if (size >= 16) assert.notDeepEqual(one, other);
    // Of 2^20 random bytes each value is about 4,096 (standard deviation 64).
    if (size === 1 << 20) for (const count of histogram(one)) assert.ok(count > 3400 && count < 4800, String(count));
  }
  assert.notEqual(randomBytes(4096).subarray(-8).readBigUInt64LE(), 0n); // to its end
  const uuids = new Set(Array.from({ length: 1000 }, () => randomUUID()));
  assert.equal(uuids.size, 1000);
  for (const uuid of uuids) assert.match(uuid, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});

function histogram(bytes: Buffer): Uint32Array {
  const counts = new Uint32Array(256);
  for (const byte of bytes) counts[byte]! += 1;
  return counts;
}

test('they do not load node:crypto', () => {
  const module = new URL('../../src/linux/random.ts', import.meta.url).href;
  const script = `
    const { randomBytes, randomUUID } = await import(${JSON.stringify(module)});
    const loaded = () => process.moduleLoadList.some((name) => name.includes('internal/crypto/'));
    randomBytes(8);
    randomUUID();
    const before = loaded();
    process.getBuiltinModule('node:crypto');
    console.log(before, loaded());`;
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  assert.equal(stdout, 'false true\n', stderr);
});
