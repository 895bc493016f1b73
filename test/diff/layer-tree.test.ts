import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, statSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
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

test('names that a layer has and deletes below are kept up to 64 MiB, and more is refused', async () => {
  await using dir = await scratch();
  using tree = new LayerTree(fromText(dir.path), marksOf('overlay'));
  const long = { ...tree.root, path: 'a/'.repeat(30_000) as ByteString };
  const bytesEach = long.path.length + 1 + 5;
  const most = Math.floor((64 << 20) / bytesEach);
  const name = (i: number): ByteString => `f${String(i).padStart(4, '0')}` as ByteString;
  for (let i = 0; i < most; i++) tree.deleteBelow(long, name(i));
  assert.throws(
    () => tree.deleteBelow(long, name(most)),
    (error) => isStorageError(error, 'corrupt') && /deletes too many names that it has itself/.test(error.message),
  );
});

test('few directories are open at a time, however deep they are, and one that goes closes what is below it', async () => {
  await using dir = await scratch();
  const open = (): number => readdirSync('/proc/self/fd').length;
  const before = open();
  {
    using tree = new LayerTree(fromText(dir.path), marksOf('overlay'));
    const names = Array.from({ length: 100 }, (_, i) => `d${i}`);
    let path = '' as ByteString;
    for (const name of names as ByteString[]) {
      const { listed, made } = tree.listDirectory(tree.directory(path), name, 0o755);
      assert.ok(made);
      path = listed.path;
    }
    assert.equal(path, names.join('/'));
    assert.ok(open() - before < 25, `${open() - before} descriptors`);
    const inode = fstat(tree.directory(path).fd).ino;
    assert.equal(statSync(join(dir.path, path)).ino, Number(inode));
    // Back up by more than is open, and down again.
    assert.equal(tree.directory('d0/d1' as ByteString).path, 'd0/d1');
    assert.equal(fstat(tree.directory(path).fd).ino, inode);
    // Cleared from a place that is not the last one: nothing that was open is used any more.
    tree.clear(tree.root, 'd0' as ByteString);
    assert.ok(open() - before <= 2);
    assert.equal(tree.directories.find('d0/d1' as ByteString), undefined);
    assert.equal(tree.directory('d0/d1' as ByteString).path, 'd0/d1'); // made anew
    assert.deepEqual(readdirSync(join(dir.path, 'd0/d1')), []);
  }
  assert.equal(open(), before);
});
