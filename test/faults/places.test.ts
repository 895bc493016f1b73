import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { digestOf } from '../../src/base/digest.ts';
import { StorageError } from '../../src/base/errors.ts';
import { copyTree } from '../../src/fs/copy.ts';
import { removeTree } from '../../src/fs/remove.ts';
import { isStorageError, openStore } from '../../src/index.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_RDONLY, openat } from '../../src/linux/inode.ts';
import { located, systemError } from '../../src/linux/libc.ts';
import { filesystem } from '../kit/filesystems.ts';
import { file, hardlink, layer, ociImage } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { DRIVERS, withStore } from '../kit/stores.ts';

// Where it failed: which layer of an image, and which path in it. Descriptors mean nothing to whoever reads a message.

const GOOD = layer(file('etc/good', 'x'));

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

async function failure(deed: Promise<unknown>): Promise<StorageError> {
  const error: unknown = await deed.then(
    () => undefined,
    (error: unknown) => error,
  );
  assert.ok(isStorageError(error), String(error));
  return error;
}

for (const driver of DRIVERS) {
  test(`load() says in which layer of the image, and where in it, it failed (${driver})`, async (t) => {
    await withStore(t, driver, async (store) => {
      const bad = layer(file('etc/f'), hardlink('etc/link', 'nowhere/at-all'));
      const early = layer(file('etc/f'), hardlink('etc/link', 'etc/link'));
      for (const [tar, state] of [
        [early, 'cannot unpack "etc/link": a hard link to itself'],
        [bad, 'cannot unpack "etc/link": it is a hard link to "nowhere/at-all", which does not exist'],
      ] as const) {
        const error = await failure(store.images.load(once(ociImage([GOOD, tar, layer(file('top'))]))));
        assert.equal(error.code, 'corrupt');
        assert.equal(error.layer, digestOf(tar));
        assert.ok(error.message.startsWith(`Cannot load layer 2 of 3, ${digestOf(tar)}: ${state}`), error.message);
      }
      const other = layer(file('etc/another'));
      const lie = await failure(store.images.load(once(ociImage([GOOD, { tar: bad, blob: other }]))));
      assert.equal(
        lie.message,
        `Cannot load layer 2 of 2, ${digestOf(bad)}: its content is claimed to be ${digestOf(bad)} and is ${digestOf(other)}`,
      );
    });
  });
}

test('load() names the file that does not fit, by its path in the layer', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4')) return;
  await using disk = await filesystem('ext4', 64);
  await using store = await openStore({ root: join(disk.path, 'store'), driver: 'vfs', threads: 2 });
  const long = { sparse: [{ offset: 0, length: 1 }], sizeBytes: 2 ** 50 };
  const tar = layer(file('etc/long', 'x', long));
  const error = await failure(store.images.load(once(ociImage([GOOD, tar]))));
  assert.equal(error.code, 'resource-exhausted');
  assert.equal(error.path, 'etc/long');
  assert.match(
    error.message,
    /^Cannot load layer 2 of 2, sha256:\w+: cannot set the size of "etc\/long": the file would/,
  );
  const big = layer(file('etc/big', Buffer.alloc(70 << 20, 1)));
  await using other = await scratch('places');
  writeFileSync(join(other.path, 'image.tar'), ociImage([GOOD, big]));
  const full = await failure(store.images.load(join(other.path, 'image.tar')));
  assert.deepEqual([full.code, full.errno, full.path], ['resource-exhausted', 'ENOSPC', 'etc/big']);
  assert.match(full.message, /: cannot write "etc\/big": no space left on the filesystem \(ENOSPC\)$/);
});

test('copyTree() and removeTree() name what they fail at by its path', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'chattr')) return;
  await using small = await filesystem('ext4', 16);
  await using disk = await filesystem('tmpfs', 64);
  const from = join(disk.path, 'from');
  mkdirSync(join(from, 'a/b'), { recursive: true });
  writeFileSync(join(from, 'a/b/long'), 'x');
  truncateSync(join(from, 'a/b/long'), 2 ** 50);
  const to = join(small.path, 'to');
  mkdirSync(to);
  assert.throws(() => copyTree(fromText(from), fromText(to)), new RegExp(`Cannot set the size of "${from}/a/b/long"`));
  const kept = join(small.path, 'top/a/kept');
  mkdirSync(join(small.path, 'top/a'), { recursive: true });
  writeFileSync(kept, '');
  spawnSync('chattr', ['+i', kept]);
  const home = openat(AT_FDCWD, fromText(small.path), O_RDONLY | O_DIRECTORY);
  try {
    assert.throws(
      () => removeTree(home, fromText('top')),
      /^StorageError: Cannot remove "top\/a\/kept": not permitted \(EPERM\)$/,
    );
  } finally {
    close(home);
    spawnSync('chattr', ['-i', kept]);
  }
});

test('located() tells a failed call of its path, keeps code, errno and cause, and leaves alone what is named already', () => {
  const path = 'a/"b"$&' as ByteString;
  const failed = systemError('write', 28, 'descriptor 7');
  const told = located(failed, path);
  assert.ok(told instanceof StorageError);
  assert.deepEqual(
    [told.message, told.code, told.errno, told.path, told.cause],
    ['Cannot write "a/\\"b\\"$&": no space left on the filesystem (ENOSPC)', failed.code, 'ENOSPC', path, failed],
  );
  const ofNode = located(Object.assign(new Error('EIO: i/o error, write'), { errno: -5, syscall: 'write' }), path);
  assert.ok(isStorageError(ofNode, 'unavailable'));
  assert.equal(ofNode.path, path);
  const pathless = located(new StorageError('resource-exhausted', 'Cannot map user 7: it is in none'), path);
  assert.equal((pathless as Error).message, 'Cannot map user 7: it is in none, at "a/\\"b\\"$&"');
  for (const same of [
    new StorageError('canceled', 'given up'),
    new StorageError('corrupt', 'Cannot unpack "x": bad', { path: 'x' }),
    new RangeError('a bug'),
    undefined,
  ])
    assert.equal(located(same, path), same);
});
