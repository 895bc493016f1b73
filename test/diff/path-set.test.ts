import assert from 'node:assert/strict';
import { test } from 'node:test';
import { PathSet } from '../../src/diff/path-set.ts';

test('PathSet holds what was added, and nothing else, however many there are', () => {
  const set = new PathSet();
  const path = (i: number): string => `usr/share/${i % 97}/file-${i}`;
  for (let i = 0; i < 50_000; i++) {
    set.add(path(i));
    if (i % 3 === 0) set.add(path(i));
  }
  for (let i = 0; i < 50_000; i++) assert.ok(set.has(path(i)), path(i));
  for (let i = 50_000; i < 100_000; i++) assert.ok(!set.has(path(i)), path(i));
  for (const other of ['', 'usr', 'usr/share/0', 'usr/share/0/file-', 'usr/share/0/file-00'])
    assert.ok(!set.has(other));
  set.add('');
  assert.ok(set.has(''));
});
