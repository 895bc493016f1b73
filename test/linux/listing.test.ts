import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fromText } from '../../src/base/bytes.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_RDONLY, openat, readDirectory } from '../../src/linux/inode.ts';
import { filesystem, needsOf } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';

function names(path: string): string[] {
  const fd = openat(AT_FDCWD, fromText(path), O_RDONLY | O_DIRECTORY);
  try {
    return readDirectory(fd, fromText(path)).map(({ name }) => name);
  } finally {
    close(fd);
  }
}

for (const [kind, features] of [
  ['ext4', []],
  ['ext4', ['-O', '^dir_index']],
  ['ext4', ['-O', 'inline_data', '-b', '1024']],
  ['xfs', []],
  ['tmpfs', []],
] as const) {
  test(`readDirectory() lists all of directories of any size: ${kind} ${features.join(' ')}`, async (t) => {
    if (!need(t, ...needsOf(kind))) return;
    await using disk = await filesystem(kind, 512, features);
    for (const count of [0, 1, 2, 40, 200, 1500, 6000]) {
      const path = `${disk.path}/${count}`;
      mkdirSync(path);
      for (let i = 0; i < count; i++) writeFileSync(`${path}/${'n'.repeat(i % 90)}${i}`, '');
      assert.deepEqual(names(path).sort(), readdirSync(path).sort());
      for (let i = 0; i < count; i += 3) rmSync(`${path}/${'n'.repeat(i % 90)}${i}`);
      assert.deepEqual(names(path).sort(), readdirSync(path).sort());
    }
  });
}
