import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, readSync, truncateSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { CACHED_MAX_BYTES, cachedContent, isCached } from '../../src/linux/copy.ts';
import { evict } from '../kit/evict.ts';
import { type FilesystemName, filesystem, needsOf } from '../kit/filesystems.ts';
import { noise } from '../kit/images.ts';
import { need } from '../kit/require.ts';

/** What `ask` answers of an open file. */
function of<T>(path: string, ask: (fd: number) => T): T {
  const fd = openSync(path, 'r');
  try {
    return ask(fd);
  } finally {
    closeSync(fd);
  }
}

function contentOf(path: string, sizeBytes: number): Buffer | undefined {
  const content = of(path, (fd) => cachedContent(fd, sizeBytes));
  return content === undefined ? undefined : Buffer.from(content);
}

const KINDS: readonly (readonly [FilesystemName, ...string[]])[] = [
  ['ext4', '-b', '4096'],
  ['ext4', '-b', '1024'], // a page of four blocks
  ['xfs'],
];

for (const [kind, ...features] of KINDS) {
  const title = [kind, ...features].join(' ');
  test(`cachedContent() and isCached() tell what the page cache has, and wait for no disk: ${title}`, async (t) => {
    if (!need(t, ...needsOf(kind))) return;
    await using disk = await filesystem(kind, 512, features);
    const path = `${disk.path}/file`;
    for (const length of [0, 1, 4095, 4096, 4097, 20_000, CACHED_MAX_BYTES]) {
      const bytes = noise(length, length);
      writeFileSync(path, bytes);
      assert.deepEqual(contentOf(path, length), bytes, `${length}`);
      assert.equal(
        of(path, (fd) => isCached(fd, length)),
        true,
      );
      assert.equal(contentOf(path, length + 1), undefined, `longer than ${length}`);
      if (length === 0) continue;
      evict(path);
      assert.equal(contentOf(path, length), undefined, `${length}, on the disk`);
      evict(path); // to ask has had the kernel read it
      assert.equal(
        of(path, (fd) => isCached(fd, length)),
        false,
      );
      assert.deepEqual(readFileSync(path), bytes);
      assert.deepEqual(contentOf(path, length), bytes, `${length}, read`);
    }
    // Larger ones are not taken; of their ends both are to be there.
    const size = 10 << 20;
    writeFileSync(path, noise(size, 7));
    assert.equal(contentOf(path, size), undefined);
    assert.equal(
      of(path, (fd) => isCached(fd, size)),
      true,
    );
    evict(path);
    const found = of(path, (fd) => {
      readSync(fd, Buffer.alloc(1), 0, 1, 0);
      return isCached(fd, size);
    });
    assert.equal(found, false);
    truncateSync(path, 0);
    assert.deepEqual(contentOf(path, 0), Buffer.alloc(0));
  });
}

test('cachedContent() and isCached() answer nothing where the filesystem does not say, or nothing is open', async (t) => {
  if (!need(t, ...needsOf('tmpfs'))) return;
  await using disk = await filesystem('tmpfs', 16);
  writeFileSync(`${disk.path}/file`, 'some');
  assert.equal(contentOf(`${disk.path}/file`, 4), undefined);
  assert.equal(
    of(`${disk.path}/file`, (fd) => isCached(fd, 4)),
    undefined,
  );
  assert.equal(cachedContent(-1, 4), undefined);
  assert.equal(isCached(-1, 4), undefined);
});
