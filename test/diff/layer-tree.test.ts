import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { LayerTree } from '../../src/diff/layer-tree.ts';
import { baseName, parentPath } from '../../src/diff/names.ts';
import { marksOf } from '../../src/fs/whiteouts.ts';
import { fstat, mkdirat } from '../../src/linux/inode.ts';
import { scratch } from '../kit/scratch.ts';

// Which directory a path means, whatever was asked for before it. What comes of it: apply.test.ts, law/layers.test.ts.

test('a directory is the same, whichever was asked for before it', async () => {
  await using dir = await scratch();
  const root = join(dir.path, 'layer');
  mkdirSync(root);
  using tree = new LayerTree(fromText(root), marksOf('overlay'));
  const paths = ['a', 'a/c', 'abc', 'ab', 'ab/c', 'a/c/a', 'a/c/a/c', 'c', 'c/a'] as ByteString[];
  const inodes = new Map<ByteString, bigint | number>();
  for (const path of paths) tree.listDirectory(tree.directory(parentPath(path)), baseName(path), 0o755);
  for (const path of paths) inodes.set(path, fstat(tree.directory(path).fd).ino);
  assert.equal(new Set(inodes.values()).size, paths.length);
  symlinkSync('a/c', join(root, 'link')); // leads there by another name
  const asked = [...paths, 'link', 'link/a', 'a/c/../../ab'] as ByteString[];
  const meant = (path: ByteString): unknown =>
    inodes.get((path === 'a/c/../../ab' ? 'ab' : path.replace('link', 'a/c')) as ByteString);
  tree.directory('a' as ByteString);
  const open = readdirSync('/proc/self/fd').length;
  for (const before of asked) {
    for (const path of asked) {
      tree.directory(before);
      const place = tree.directory(path);
      assert.equal(fstat(place.fd).ino, meant(path), `${path} after ${before}`);
    }
  }
  assert.equal(readdirSync('/proc/self/fd').length, open);
});

test('what was taken away, or was never made by the layer, is not found below the last directory', async () => {
  await using dir = await scratch();
  const root = join(dir.path, 'layer');
  mkdirSync(root);
  using tree = new LayerTree(fromText(root), marksOf('overlay'));
  for (const path of ['a', 'a/b', 'a/b/c'] as ByteString[]) {
    tree.listDirectory(tree.directory(parentPath(path)), baseName(path), 0o755);
  }
  const a = tree.directory('a' as ByteString);
  tree.clear(a, 'b' as ByteString);
  assert.equal(existsSync(join(root, 'a/b')), false);
  // Made anew where it is asked for, as one that the archive only implies.
  const again = tree.directory('a/b/c' as ByteString);
  assert.equal(existsSync(join(root, 'a/b/c')), true);
  assert.notEqual(tree.directories.find('a/b/c' as ByteString), undefined);
  assert.equal(again.path, 'a/b/c');
  // A directory that somebody else put there is nothing of this layer's.
  mkdirat(tree.directory('a' as ByteString).fd, 'foreign' as ByteString, 0o755);
  assert.throws(() => tree.directory('a/foreign' as ByteString), /made "a\/foreign" a directory/);
});
