import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import type { ByteString } from '../../src/base/bytes.ts';
import { type Collected, expand, lex, replay, split } from './collect.ts';
import { goldens } from './goldens.ts';

/** A member in the form of list.py. Python takes the slashes from the end of names. */
function listed(member: Collected): unknown {
  const { entry } = member;
  const names = [...entry.xattrs.keys()].sort();
  return {
    ...entry,
    name: entry.name.replace(/\/+$/, ''),
    mtimeNs: String(entry.mtimeNs),
    xattrs: Object.fromEntries(names.map((name: ByteString) => [name, entry.xattrs.get(name)?.toString('base64')])),
    ...(entry.sparse === undefined ? {} : { sparse: entry.sparse.map((run) => [run.offset, run.length]) }),
    ...(entry.type === 'file' ? { sha256: createHash('sha256').update(expand(member)).digest('hex') } : {}),
  };
}

for (const { name, tar, listing } of goldens()) {
  test(`TarLexer reads ${name} as Python does, in chunks of any size`, () => {
    for (const sizes of [[tar.length], [1], [511, 513, 7], [4096]]) {
      const { members, bytes } = lex(tar, sizes);
      assert.deepEqual(members.map(listed), listing);
      assert.ok(bytes.equals(tar), 'raw and data are not the input');
      assert.ok(members.every((member) => member.ended));
    }
  });

  test(`SplitWriter and SplitReader give ${name} back`, () => {
    const { record, files } = split(tar);
    assert.ok(replay(record, files, [3, 1]).equals(tar));
  });
}

test('TarLexer has every dialect among the goldens', () => {
  assert.ok(goldens().length >= 20, 'the goldens are gone');
});
