import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  closeSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { AT_FDCWD, isStill, lstatat, type Stat, utimensat } from '../../src/linux/inode.ts';
import { fsetxattr } from '../../src/linux/xattr.ts';
import { filesystem, needsOf } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';

const SECOND = 1_000_000_000n;
/** Of seconds: before 1970, around the ends of 32 bits signed and not, and further than any filesystem on a disk. */
const SECONDS = [-(2n ** 31n), -1n, 0n, 2n ** 31n - 1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 33n + 7n];
const FURTHER = [-(2n ** 40n), -(2n ** 32n), 2n ** 34n, 2n ** 40n + 3n, 2n ** 55n + 1n, 2n ** 62n];

for (const kind of ['ext4', 'xfs', 'tmpfs'] as const) {
  test(`lstatat() tells what Node's lstat tells, of any time: ${kind}`, async (t) => {
    if (!need(t, ...needsOf(kind))) return;
    await using disk = await filesystem(kind, 512);
    const seen = new Set<bigint>();
    const [file, link, directory] = ['file', 'link', 'directory'].map((name) => `${disk.path}/${name}`) as [
      string,
      string,
      string,
    ];
    writeFileSync(file, 'x'.repeat(70_000));
    symlinkSync('nothing', link);
    mkdirSync(directory);
    for (const path of [file, link, directory]) {
      for (const seconds of [...SECONDS, ...(kind === 'tmpfs' ? FURTHER : [])]) {
        for (const rest of [0n, 1n, 999_999_999n]) {
          const [atimeNs, mtimeNs] = [seconds * SECOND + rest, -seconds * SECOND + rest];
          utimensat(AT_FDCWD, fromText(path), atimeNs, mtimeNs);
          const own = lstatat(AT_FDCWD, fromText(path));
          const nodes = lstatSync(path, { bigint: true });
          assert.ok(own !== undefined);
          const { mode, nlink, uid, gid, ino, sizeBytes, blocks } = own;
          assert.deepEqual([mode, nlink, uid, gid, ino, sizeBytes, blocks].map(BigInt), [
            nodes.mode,
            nodes.nlink,
            nodes.uid,
            nodes.gid,
            nodes.ino,
            nodes.size,
            nodes.blocks,
          ]);
          if (kind === 'tmpfs') assert.deepEqual([own.atimeNs, own.mtimeNs], [atimeNs, mtimeNs]);
          if (seconds > 2n ** 53n) continue; // Node rounds
          assert.deepEqual([own.atimeNs, own.mtimeNs, own.ctimeNs], [nodes.atimeNs, nodes.mtimeNs, nodes.ctimeNs]);
          seen.add(own.mtimeNs);
        }
      }
    }
    assert.ok(seen.size > 8);
  });
}

for (const kind of ['ext4', 'tmpfs'] as const) {
  test(`isStill() sees whatever was done to a file, but to read it: ${kind}`, async (t) => {
    if (!need(t, ...needsOf(kind))) return;
    await using disk = await filesystem(kind, 64);
    const path = `${disk.path}/file`;
    writeFileSync(path, 'some');
    const fd = openSync(path, 'r+');
    try {
      const acts: Readonly<Record<string, () => void>> = {
        chmod: () => chmodSync(path, 0o640),
        chown: () => chownSync(path, 7, 8),
        link: () => linkSync(path, `${path}-too`),
        utimes: () => utimesSync(path, 5, 5),
        'write, as long': () => writeSync(fd, 'more', 0),
        'write, with its time as before': () => {
          const { mtime, atime } = lstatSync(path);
          writeSync(fd, 'less', 0);
          utimesSync(path, atime, mtime);
        },
        truncate: () => ftruncateSync(fd, 2),
        xattr: () => fsetxattr(fd, 'trusted.some' as ByteString, Buffer.from('x')),
      };
      for (const [what, act] of Object.entries(acts)) {
        const before = lstatat(AT_FDCWD, fromText(path));
        assert.ok(before !== undefined);
        readFileSync(path);
        fsyncSync(fd); // data get their place
        assert.ok(isStill(fd, before), `before ${what}`);
        await setTimeout(20); // the kernel's clock of inodes is that coarse
        act();
        assert.ok(!isStill(fd, before), what);
      }
      writeFileSync(`${path}-other`, 'so');
      assert.ok(!isStill(fd, lstatat(AT_FDCWD, fromText(`${path}-other`)) as Stat), 'another');
    } finally {
      closeSync(fd);
    }
  });
}
