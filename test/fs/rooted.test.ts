import assert from 'node:assert/strict';
import { closeSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { removeTree } from '../../src/fs/remove.ts';
import { Root } from '../../src/fs/rooted.ts';
import { isDirectory } from '../../src/fs/stat.ts';
import { AT_FDCWD, close, mkdirat, O_CREAT, O_EXCL, O_RDONLY, O_WRONLY, openat } from '../../src/linux/inode.ts';
import { ELOOP } from '../../src/linux/libc.ts';
import { scratch } from '../kit/scratch.ts';

const b = fromText;

for (const resolve of ['openat2', 'walk'] as const) {
  test(`Root (${resolve}) resolves as a chroot there would`, async () => {
    await using dir = await scratch('rooted');
    const inside = `${dir.path}/root`;
    mkdirSync(`${inside}/sub/deep`, { recursive: true });
    writeFileSync(`${inside}/file`, 'inside');
    writeFileSync(`${dir.path}/file`, 'outside');
    symlinkSync('/sub', `${inside}/absolute`);
    symlinkSync('../../../..', `${inside}/sub/climb`);
    symlinkSync('/file', `${inside}/sub/leaf`);
    symlinkSync('loop', `${inside}/loop`);
    symlinkSync('/absolute/deep/', `${inside}/chain`);
    using root = Root.open(b(inside), { resolve });
    const read = (path: string): string => {
      const fd = root.open(b(path), O_RDONLY);
      try {
        return readFileSync(fd, 'utf8');
      } finally {
        closeSync(fd);
      }
    };
    for (const path of [
      'file',
      '/file',
      '../file',
      'sub/../file',
      '//absolute/../file',
      'sub/climb/file',
      'chain/../../file',
    ]) {
      assert.equal(read(path), 'inside', path);
    }
    assert.equal(root.open(b('sub/leaf'), O_RDONLY, 0, ELOOP), -ELOOP);
    assert.equal(root.readlink(b('sub/leaf')), '/file');
    assert.equal(root.readlink(b('file')), undefined);
    assert.equal(root.stat(b('nowhere/file')), undefined);
    assert.equal(root.stat(b('file/below')), undefined);
    assert.ok(isDirectory(root.stat(b('')) ?? assert.fail()));
    assert.ok(isDirectory(root.stat(b('absolute/')) ?? assert.fail()));
    assert.throws(
      () => root.open(b('loop/x'), O_RDONLY),
      (error) => isStorageError(error) && error.errno === 'ELOOP',
    );

    close(root.open(b('absolute/new'), O_WRONLY | O_CREAT | O_EXCL, 0o600));
    assert.deepEqual(readdirSync(`${inside}/sub`).sort(), ['climb', 'deep', 'leaf', 'new']);
    const { dir: parent, name } = root.parent(b('/chain/child/'));
    mkdirat(parent, name, 0o700);
    close(parent);
    assert.deepEqual(readdirSync(`${inside}/sub/deep`), ['child']);
    for (const path of ['', '/', '..', 'sub/..']) {
      assert.throws(
        () => root.parent(b(path)),
        (error) => isStorageError(error, 'invalid-argument'),
        path,
      );
    }
    assert.equal(readFileSync(`${dir.path}/file`, 'utf8'), 'outside');
    assert.deepEqual(readdirSync(dir.path).sort(), ['file', 'root']);
  });

  test(`Root (${resolve}) reaches what lies deeper than PATH_MAX`, async () => {
    await using dir = await scratch('rooted');
    const part = 'd'.repeat(200);
    let at = openat(AT_FDCWD, b(dir.path), O_RDONLY);
    for (let depth = 0; depth < 30; depth++) {
      mkdirat(at, b(part), 0o755);
      const next = openat(at, b(part), O_RDONLY);
      close(at);
      at = next;
    }
    close(openat(at, b('leaf'), O_WRONLY | O_CREAT, 0o644));
    close(at);
    const path = `${`${part}/`.repeat(30)}leaf` as ByteString;
    assert.ok(path.length > 4096);
    {
      using root = Root.open(b(dir.path), { resolve });
      assert.equal(root.stat(path)?.sizeBytes, 0);
    }
    const top = openat(AT_FDCWD, b(dir.path), O_RDONLY);
    removeTree(top, b(part));
    close(top);
  });
}

test('Root.open() refuses a symlink as the root', async () => {
  await using dir = await scratch('rooted');
  symlinkSync('/etc', `${dir.path}/link`);
  assert.throws(
    () => Root.open(b(`${dir.path}/link`)),
    (error) => isStorageError(error),
  );
  rmSync(`${dir.path}/link`);
});
