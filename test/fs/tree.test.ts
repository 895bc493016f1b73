import assert from 'node:assert/strict';
import {
  chmodSync,
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { ensureDirectory, TEMPORARY_PREFIX, writeFileAtomic } from '../../src/fs/atomic.ts';
import { copyEntry, copyMetadata, copyTree } from '../../src/fs/copy.ts';
import { Descent } from '../../src/fs/descent.ts';
import { removeTree } from '../../src/fs/remove.ts';
import { treeSizeBytes } from '../../src/fs/usage.ts';
import { walkTree } from '../../src/fs/walk.ts';
import { everyXattr, keepXattr, xattrsOf } from '../../src/fs/xattrs.ts';
import { AT_FDCWD, close, mkdirat, O_CREAT, O_RDONLY, O_WRONLY, openat } from '../../src/linux/inode.ts';
import { ENOENT } from '../../src/linux/libc.ts';
import { mount, umount } from '../../src/linux/mount.ts';
import { umask } from '../../src/linux/namespace.ts';
import { lsetxattr } from '../../src/linux/xattr.ts';
import { applyEdits, making } from '../kit/edits.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { dumpTree } from '../kit/tree-dump.ts';

const b = fromText;

function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

function remove(parent: string, name: string): void {
  const fd = openat(AT_FDCWD, b(parent), O_RDONLY);
  try {
    removeTree(fd, b(name));
  } finally {
    close(fd);
  }
}

/** A chain of directories, each of which has a file before and one behind the next directory. */
function deepTree(root: string, depth: number): void {
  let at = openat(AT_FDCWD, b(root), O_RDONLY);
  for (let i = 0; i < depth; i++) {
    for (const file of ['a', 'z']) close(openat(at, b(file), O_WRONLY | O_CREAT, 0o644));
    mkdirat(at, b('directory'), 0o755);
    const next = openat(at, b('directory'), O_RDONLY);
    close(at);
    at = next;
  }
  close(at);
}

/** Tag, permissions, id: u::rwx,u:7:rwx,g::r-x,m::rwx,o::r-x. */
const DEFAULT_ACL = [
  [1, 7, -1],
  [2, 7, 7],
  [4, 5, -1],
  [16, 7, -1],
  [32, 5, -1],
] as const;

/** An ACL as the kernel's attribute holds it (include/uapi/linux/posix_acl_xattr.h). */
function aclOf(entries: readonly (readonly [tag: number, perm: number, id: number])[]): Buffer {
  const acl = Buffer.alloc(4 + 8 * entries.length);
  acl.writeUInt32LE(2, 0);
  for (const [i, [tag, perm, id]] of entries.entries()) {
    acl.writeUInt16LE(tag, 4 + 8 * i);
    acl.writeUInt16LE(perm, 6 + 8 * i);
    acl.writeInt32LE(id, 8 + 8 * i);
  }
  return acl;
}

test('walkTree() visits depth first, by bytes, a directory before its children', async () => {
  await using dir = await scratch('walk');
  for (const path of ['b/x', 'a', 'a.d', 'a/ü', 'a/z']) mkdirSync(`${dir.path}/${path}`, { recursive: true });
  symlinkSync('..', `${dir.path}/b/up`);
  assert.deepEqual(
    [...walkTree(b(dir.path))].map((visit) => visit.path),
    ['/a', '/a/z', b('/a/ü'), '/a.d', '/b', '/b/up', '/b/x'],
  );
});

test('walkTree() closes its descriptors when the consumer stops early, and few are open in a deep tree', async () => {
  await using dir = await scratch('walk');
  deepTree(dir.path, 1500);
  const before = openDescriptors();
  let seen = 0;
  for (const { path } of walkTree(b(dir.path))) {
    if (++seen === 2500) assert.ok(openDescriptors() - before < 40, path);
  }
  assert.equal(seen, 4500);
  for (const { path } of walkTree(b(dir.path))) if (path.length > 5000) break;
  assert.equal(openDescriptors(), before);
  remove(dir.path, 'directory');
  assert.deepEqual(readdirSync(dir.path).sort(), ['a', 'z']);
});

test('removeTree() removes any type, follows no symlink, and succeeds when the tree is absent', async () => {
  await using dir = await scratch('remove');
  mkdirSync(`${dir.path}/outside/kept`, { recursive: true });
  mkdirSync(`${dir.path}/tree/locked/inner`, { recursive: true });
  symlinkSync(`${dir.path}/outside`, `${dir.path}/tree/link`);
  symlinkSync('outside', `${dir.path}/alias`);
  writeFileSync(`${dir.path}/tree/locked/inner/file`, '');
  chmodSync(`${dir.path}/tree/locked`, 0);
  remove(dir.path, 'tree');
  remove(dir.path, 'alias');
  remove(dir.path, 'absent');
  assert.deepEqual(readdirSync(dir.path), ['outside']);
  assert.deepEqual(readdirSync(`${dir.path}/outside`), ['kept']);
});

test('removeTree() as an ordinary user opens directories of his own that lack permissions', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch('remove');
  mkdirSync(`${dir.path}/tree/closed/inner`, { recursive: true });
  writeFileSync(`${dir.path}/tree/file`, '');
  for (const path of ['', '/tree/closed/inner', '/tree/closed', '/tree', '/tree/file']) {
    applyEdits(dir.path, [{ do: 'chown', path, uid: 4321, gid: 4321 }]);
  }
  chmodSync(`${dir.path}/tree/closed`, 0);
  chmodSync(`${dir.path}/tree`, 0o500);
  process.seteuid?.(4321);
  try {
    remove(dir.path, 'tree');
  } finally {
    process.seteuid?.(0);
  }
  assert.deepEqual(readdirSync(dir.path), []);
});

test('removeTree() stops at a mount inside, also one of the same filesystem', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await scratch('remove');
  mkdirSync(`${dir.path}/canary`);
  writeFileSync(`${dir.path}/canary/file`, 'kept');
  mkdirSync(`${dir.path}/tree/mounted`, { recursive: true });
  const target = b(`${dir.path}/tree/mounted`);
  mount(b(`${dir.path}/canary`), target, b('none'), 4096, b(''));
  try {
    assert.throws(
      () => remove(dir.path, 'tree'),
      (error) => isStorageError(error, 'busy'),
    );
    assert.throws(
      () => remove(`${dir.path}/tree`, 'mounted'),
      (error) => isStorageError(error, 'busy'),
    );
    assert.equal(readFileSync(`${dir.path}/canary/file`, 'utf8'), 'kept');
  } finally {
    umount(target);
  }
});

test('copyTree() gives an equal tree for any tree', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch('copy');
  let run = 0;
  fc.assert(
    fc.property(making(40), (made) => {
      const [from, to] = [`${dir.path}/from${++run}`, `${dir.path}/to${run}`];
      mkdirSync(from, { mode: 0o750 });
      mkdirSync(to);
      applyEdits(from, made);
      copyTree(b(from), b(to));
      assert.deepEqual(dumpTree(to), dumpTree(from));
      assert.equal(treeSizeBytes(b(to)), treeSizeBytes(b(from)));
    }),
    { numRuns: 60 },
  );
});

test('copyTree() keeps holes, trusted attributes, times and default ACLs, and reports sockets', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch('copy');
  const [from, to] = [`${dir.path}/from`, `${dir.path}/to`];
  mkdirSync(`${from}/d`, { recursive: true });
  mkdirSync(to);
  const fd = openSync(`${from}/sparse`, 'w');
  writeSync(fd, 'head');
  writeSync(fd, 'middle', 8 * 1024 * 1024);
  ftruncateSync(fd, 32 * 1024 * 1024);
  closeSync(fd);
  writeFileSync(`${from}/hole`, '');
  truncateSync(`${from}/hole`, 1_000_000);
  lsetxattr(b(`${from}/d`), b('trusted.overlay.opaque'), Buffer.from('y'));
  lsetxattr(b(`${from}/d`), b('system.posix_acl_default'), aclOf(DEFAULT_ACL));
  lsetxattr(b(to), b('system.posix_acl_default'), aclOf(DEFAULT_ACL));
  writeFileSync(`${from}/d/plain`, 'inherits an ACL');
  linkSync(`${from}/d/plain`, `${from}/linked`);
  const server = createServer().listen(`${from}/socket`);
  await new Promise((done) => server.on('listening', done));
  const report = copyTree(b(from), b(to));
  server.close();
  assert.deepEqual(report.sockets, ['/socket']);
  const without = dumpTree(from).filter((line) => !line.includes('"/socket"'));
  assert.deepEqual(dumpTree(to), without);
  assert.deepEqual(xattrsOf(b(`${to}/d`), everyXattr), xattrsOf(b(`${from}/d`), everyXattr));
  assert.ok(xattrsOf(b(`${to}/d`), keepXattr).size > 0);
  assert.equal(lstatSync(`${to}/sparse`).blocks, lstatSync(`${from}/sparse`).blocks);
  assert.equal(lstatSync(`${to}/hole`).blocks, 0);
  assert.throws(
    () => copyTree(b(from), b(to)),
    (error) => isStorageError(error, 'failed-precondition'),
  );
});

test("copyEntry() and copyMetadata() take a layer's attributes and nothing inherited", async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch('copy');
  mkdirSync(`${dir.path}/from/d`, { recursive: true });
  mkdirSync(`${dir.path}/to`);
  applyEdits(`${dir.path}/from`, [
    { do: 'create', path: 'f', seed: 1234 },
    { do: 'xattr', path: 'f', name: 'user.kept', value: 'x' },
    { do: 'xattr', path: 'f', name: 'trusted.dropped', value: 'x' },
    { do: 'chmod', path: 'f', mode: 0o4751 },
    { do: 'symlink', path: 'l', target: '/etc' },
    { do: 'device', path: 'n', block: false, minor: 3 },
    { do: 'fifo', path: 'p' },
    { do: 'xattr', path: 'd', name: 'user.kept', value: 'x' },
    { do: 'chmod', path: 'd', mode: 0o1777 },
    { do: 'chown', path: 'd', uid: 4, gid: 5 },
    { do: 'touch', path: 'd' },
  ]);
  lsetxattr(b(`${dir.path}/to`), b('system.posix_acl_default'), aclOf(DEFAULT_ACL));
  mkdirSync(`${dir.path}/to/d`);
  const from = openat(AT_FDCWD, b(`${dir.path}/from`), O_RDONLY);
  const to = openat(AT_FDCWD, b(`${dir.path}/to`), O_RDONLY);
  for (const name of ['f', 'l', 'n', 'p']) copyEntry(from, b(name), to, b(name));
  const [fromDir, toDir] = [openat(from, b('d'), O_RDONLY), openat(to, b('d'), O_RDONLY)];
  copyMetadata(fromDir, toDir);
  for (const fd of [from, to, fromDir, toDir]) close(fd);
  assert.deepEqual(dumpTree(`${dir.path}/to`).slice(1), dumpTree(`${dir.path}/from`).slice(1));
  assert.equal(xattrsOf(b(`${dir.path}/to/f`), everyXattr).has('trusted.dropped' as ByteString), false);
});

test('treeSizeBytes() counts a hard link once, and neither directories nor whiteouts', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch('usage');
  mkdirSync(`${dir.path}/d`);
  writeFileSync(`${dir.path}/d/five`, '12345');
  linkSync(`${dir.path}/d/five`, `${dir.path}/again`);
  symlinkSync('four', `${dir.path}/link`);
  assert.equal(treeSizeBytes(b(dir.path)), 9);
});

test('writeFileAtomic() replaces a file with the exact mode and leaves no temporary name', async () => {
  await using dir = await scratch('atomic');
  const fd = openat(AT_FDCWD, b(dir.path), O_RDONLY);
  const old = umask(0o077);
  try {
    writeFileAtomic(fd, b('file'), Buffer.from('one'));
    writeFileAtomic(fd, b('file'), Buffer.from('two'), { mode: 0o664, sync: true });
    mkdirSync(`${dir.path}/taken/full`, { recursive: true });
    assert.throws(() => writeFileAtomic(fd, b('taken'), Buffer.from('x')));
    ensureDirectory(b(`${dir.path}/d`), 0o2775, 0, 0);
    ensureDirectory(b(`${dir.path}/d`), 0o711, 0, 0);
  } finally {
    umask(old);
    close(fd);
  }
  assert.equal(readFileSync(`${dir.path}/file`, 'utf8'), 'two');
  assert.equal(lstatSync(`${dir.path}/file`).mode & 0o7777, 0o664);
  assert.equal(lstatSync(`${dir.path}/d`).mode & 0o7777, 0o711);
  assert.equal(
    readdirSync(dir.path).some((name) => name.startsWith(TEMPORARY_PREFIX)),
    false,
  );
  assert.ok(existsSync(`${dir.path}/taken/full`));
});

test('Descent.stat() looks into directories that it does not open, however deep', async () => {
  await using dir = await scratch('descent');
  const name = 'd'.repeat(200);
  const deep = Array.from({ length: 12 }, () => name);
  mkdirSync(join(dir.path, ...deep), { recursive: true });
  for (const depth of [0, 3, 12]) writeFileSync(join(dir.path, ...deep.slice(0, depth), 'file'), 'x'.repeat(depth));
  using at = Descent.open(b(dir.path));
  const open = (): number => readdirSync('/proc/self/fd').length;
  const before = open();
  for (let depth = 0; depth <= 12; depth++) {
    const found = at.stat(b('file'), ENOENT);
    assert.equal(found?.sizeBytes, [0, 3, 12].includes(depth) ? depth : undefined);
    // Six such names are too long a path: then those are opened.
    assert.equal(open(), before + 6 * Math.floor(depth / 6), `at depth ${depth}`);
    at.enterLater(b(name));
  }
});
