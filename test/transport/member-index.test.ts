import assert from 'node:assert/strict';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { readBlob } from '../../src/transport/documents.ts';
import { cleanName, TarMembers } from '../../src/transport/member-index.ts';
import { scratch } from '../kit/scratch.ts';
import type { Piece } from './archives.ts';
import { fails, tarBytes } from './archives.ts';

function scan<T>(path: string, bytes: Uint8Array, use: (members: TarMembers) => T): T {
  writeFileSync(path, bytes);
  const fd = openSync(path, 'r');
  try {
    return use(TarMembers.scan(fd));
  } finally {
    closeSync(fd);
  }
}

test('TarMembers.scan() finds every payload, whatever the sizes around it', async () => {
  await using dir = await scratch();
  const size = fc.oneof(fc.nat(1100), fc.constantFrom(0, 512, 3584, 4096, 8191, 65_536, 1_100_000));
  fc.assert(
    fc.property(fc.array(size, { maxLength: 12 }), fc.boolean(), (sizes, longNames) => {
      const pieces: Piece[] = sizes.map((bytes, i) => ({
        name: `${longNames ? 'n'.repeat(300) : 'n'}${i}`,
        content: Buffer.alloc(bytes, i + 1),
      }));
      scan(`${dir.path}/a`, tarBytes(pieces), (members) => {
        assert.equal(members.ended, true);
        for (const { name, content } of pieces) assert.deepEqual(readBlob(members.find(name)!, name), content);
        assert.equal(members.find('absent'), undefined);
        assert.equal(members.find('constructor'), undefined);
      });
    }),
    { numRuns: 60 },
  );
});

test('TarMembers.scan() reads nothing behind the end, and refuses more members than an image has', async () => {
  await using dir = await scratch();
  const twice = Buffer.concat([tarBytes([{ name: 'a', content: 'x' }]), tarBytes([{ name: 'b', content: 'y' }])]);
  scan(`${dir.path}/a`, twice, (members) =>
    assert.deepEqual([members.find('a')?.length, members.find('b')], [1, undefined]),
  );
  const open = tarBytes([{ name: 'a', content: 'x' }]).subarray(0, 1024);
  scan(`${dir.path}/a`, open, (members) => assert.equal(members.ended, false));
  const many = tarBytes(Array.from({ length: 100_001 }, (_, i) => ({ name: `${i}` })));
  assert.throws(() => scan(`${dir.path}/a`, many, () => {}), fails('corrupt', /100000 members/));
});

test('cleanName() clamps at the root', () => {
  const table = [
    ['./a', 'a'],
    ['/a//b/', 'a/b'],
    ['../../a', 'a'],
    ['a/../../b', 'b'],
    ['.', ''],
    ['a/..', ''],
  ] as const;
  for (const [name, clean] of table) assert.equal(cleanName(name), clean, name);
});
