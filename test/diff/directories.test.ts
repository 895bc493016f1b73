import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { ByteString } from '../../src/base/bytes.ts';
import { Directories, type DirectoryRow, decodeDirectories, Mark, ROOT_ROW } from '../../src/diff/directories.ts';

/** All directories as `path marks time acl`, sorted. */
function dump(directories: Directories): string[] {
  const lines: string[] = [];
  const visit = (row: DirectoryRow, path: string): void => {
    const marks = Object.entries(Mark).filter(([, bit]) => directories.has(row, bit));
    const acl = directories.defaultAcl(row)?.toString('hex');
    lines.push(`${path} ${marks.map(([name]) => name).join('+')} ${directories.mtimeNs(row)} ${acl}`);
    assert.equal(directories.find(path as ByteString), row);
    for (let at = directories.firstChild(row); at !== undefined; at = directories.nextSibling(at)) {
      assert.equal(directories.parent(at), row);
      visit(at, path === '' ? directories.name(at) : `${path}/${directories.name(at)}`);
    }
  };
  visit(ROOT_ROW, '');
  assert.equal(lines.length, directories.size);
  return lines.toSorted();
}

test('Directories are what a map of paths is, through any making and removing, also encoded', () => {
  const name = fc.constantFrom(
    'a',
    'b',
    'c',
    '\xff\x01',
    'n'.repeat(255),
    ...Array.from({ length: 60 }, (_, i) => `d${i}`),
  );
  const ns = fc.oneof(fc.bigInt(-5n, 5n), fc.bigInt(-(10n ** 25n), 10n ** 25n));
  const step = fc.tuple(fc.nat(), name, fc.constantFrom('add', 'add', 'add', 'remove', 'mark'), ns);
  fc.assert(
    fc.property(fc.array(step, { maxLength: 400 }), (steps) => {
      const directories = new Directories();
      const model = new Map<string, string>([['', 'implied undefined undefined']]);
      for (const [pick, leaf, act, time] of steps) {
        const path = [...model.keys()][pick % model.size] as string;
        const row = directories.find(path as ByteString) as DirectoryRow;
        if (act === 'add') {
          const at = path === '' ? leaf : `${path}/${leaf}`;
          assert.equal(directories.child(row, leaf as ByteString) !== undefined, model.has(at));
          if (model.has(at)) continue;
          directories.add(row, leaf as ByteString);
          model.set(at, ' undefined undefined');
        } else if (act === 'remove' && path !== '') {
          directories.remove(row);
          for (const key of [...model.keys()]) if (key === path || key.startsWith(`${path}/`)) model.delete(key);
          assert.equal(directories.find(path as ByteString), undefined);
        } else {
          directories.unmark(row, Mark.implied);
          directories.mark(row, Mark.opaque | Mark.passing);
          directories.setMtimeNs(row, time);
          const acl = time < 0n ? undefined : Buffer.from(`${time}`);
          directories.setDefaultAcl(row, acl);
          model.set(path, `opaque+passing ${time} ${acl?.toString('hex')}`);
        }
      }
      const expected = [...model].map(([path, looks]) => `${path} ${looks}`).toSorted();
      assert.deepEqual(dump(directories), expected);
      assert.deepEqual(dump(decodeDirectories(structuredClone(directories.encode()))), expected);
    }),
  );
});

test('Directories take a million in one and in a chain, and give the room of removed ones again', () => {
  const directories = new Directories();
  let deep: DirectoryRow = ROOT_ROW;
  for (let i = 0; i < 500_000; i++) {
    directories.add(ROOT_ROW, `wide-${i}` as ByteString);
    deep = directories.add(deep, 'deep' as ByteString);
  }
  assert.equal(directories.size, 1_000_001);
  assert.notEqual(directories.child(ROOT_ROW, 'wide-499999' as ByteString), undefined);
  directories.remove(directories.child(ROOT_ROW, 'deep' as ByteString) as DirectoryRow);
  assert.equal(directories.size, 500_001);
  const rows = new Set<DirectoryRow>();
  for (let i = 0; i < 1000; i++) {
    const row = directories.add(ROOT_ROW, 'again' as ByteString);
    rows.add(row);
    directories.remove(row);
  }
  assert.equal(rows.size, 1);
});

test('Directories refuse more access lists than memory is meant for', () => {
  const directories = new Directories();
  assert.throws(() => {
    for (let i = 0; i < 1000; i++) {
      directories.setDefaultAcl(directories.add(ROOT_ROW, `d${i}` as ByteString), Buffer.alloc(60_000));
    }
  }, /default access lists/);
});
