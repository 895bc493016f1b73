import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  closeSync,
  fstatSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'node:test';
import fc from 'fast-check';
import { fromText, toText } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { packTree } from '../../src/diff/pack.ts';
import type { Difference, PackOptions, WalkOptions } from '../../src/diff/types.ts';
import { walkDifferences } from '../../src/diff/walk.ts';
import { copyTree } from '../../src/fs/copy.ts';
import { readTar } from '../../src/tar/read.ts';
import { applyEdits, CAP_NET_RAW, edits, making } from '../kit/edits.ts';
import { evict } from '../kit/evict.ts';
import { filesystem, needsOf } from '../kit/filesystems.ts';
import { applyByGnuTar } from '../kit/gnu-apply.ts';
import { noise } from '../kit/images.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { overlay, tmpfs } from './overlay.ts';

const b = fromText;

function collect(root: string, differences: Iterable<Difference>, options: PackOptions = {}): Buffer {
  const pieces: Buffer[] = [];
  packTree(b(root), differences, options, (bytes) => pieces.push(Buffer.from(bytes)));
  return Buffer.concat(pieces);
}

function pack(view: string, base?: string, options: PackOptions & WalkOptions = {}): Buffer {
  return collect(view, walkDifferences(b(view), base === undefined ? undefined : b(base), options), options);
}

/** Members as Python's tarfile, an independent reader, sees them. */
function members(tar: Buffer): string[] {
  const script = `
import sys, io, tarfile
for m in tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()), errors="surrogateescape"):
  x = sorted(k[13:] for k in m.pax_headers if k.startswith("SCHILY.xattr."))
  print(m.name + ("/" if m.isdir() else ""), m.type.decode(), oct(m.mode)[2:], m.uid, m.gid, m.size, m.pax_headers.get("mtime", int(m.mtime)), m.linkname, *x)
`;
  const run = spawnSync('python3', ['-c', script], { input: tar, encoding: 'utf8' });
  assert.equal(run.status, 0, run.stderr);
  return run.stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => line.trimEnd());
}

test('packTree() names deletions, parents once, links, and the root, in the order of the walk', async (t) => {
  if (!need(t, 'mount', 'python3')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  mkdirSync(base);
  applyEdits(base, [
    { do: 'mkdir', path: 'd' },
    { do: 'create', path: 'd/a', seed: 9 },
    { do: 'create', path: 'd/b', seed: 7 },
    { do: 'mkdir', path: 'e' },
    { do: 'create', path: 'e/gone', seed: 7 },
    { do: 'create', path: 'old', seed: 4 },
    { do: 'touch', path: 'old' },
  ]);
  for (const path of ['d', 'e', '']) applyEdits(base, [{ do: 'touch', path }]);
  using layer = overlay(`${dir.path}/layer`, [base]);
  applyEdits(layer.merged, [
    { do: 'delete', path: 'd/a' },
    { do: 'create', path: 'd/c', seed: 600 },
    { do: 'xattr', path: 'd/c', name: 'user.a', value: '1' },
    { do: 'xattr', path: 'd/c', name: 'security.capability', value: CAP_NET_RAW },
    { do: 'xattr', path: 'd/c', name: 'trusted.a', value: '1' },
    { do: 'touch', path: 'd/c' },
    { do: 'fifo', path: 'd/p' },
    { do: 'touch', path: 'd/p' },
    { do: 'touch', path: 'd' },
    { do: 'delete', path: 'e' },
    { do: 'link', path: 'old', to: 'new' },
    { do: 'chmod', path: '', mode: 0o711 },
    { do: 'symlink', path: 's', target: '/x' },
    { do: 'touch', path: 's' },
    { do: 'touch', path: '' },
  ]);
  const tar = pack(layer.merged, base, { upper: b(layer.upper) });
  const time = '1600000000.123456789';
  assert.deepEqual(members(tar), [
    `./ 5 711 0 0 0 ${time}`,
    `d/ 5 755 0 0 0 ${time}`,
    'd/.wh.a 0 0 0 0 0 0',
    `d/c 0 644 0 0 601 ${time}  security.capability user.a`,
    `d/p 6 640 0 0 0 ${time}`,
    '.wh.e 0 0 0 0 0 0',
    `new 0 644 0 0 5 ${time}`,
    `old 1 644 0 0 0 ${time} new`,
    `s 2 777 0 0 0 ${time} /x`,
  ]);
  const docker = pack(layer.merged, base, { upper: b(layer.upper), xattrs: 'docker' });
  assert.equal(members(docker)[3], 'd/c 0 644 0 0 601 1600000000  security.capability');
  const shift = { container: 0, host: 0, size: 1 };
  assert.deepEqual(pack(layer.merged, base, { ids: { uid: [shift], gid: [shift] } }), tar);
  assert.throws(
    () => pack(layer.merged, base, { ids: { uid: [{ ...shift, host: 5 }], gid: [] } }),
    (error) => isStorageError(error, 'failed-precondition'),
  );
});

test('packTree() gives the same bytes for the same tree, whatever inodes and order of making', async (t) => {
  if (!need(t, 'root')) return;
  await using dir = await scratch('pack');
  let run = 0;
  fc.assert(
    fc.property(making(40), (made) => {
      const [one, two] = [`${dir.path}/one${++run}`, `${dir.path}/two${run}`];
      mkdirSync(one);
      mkdirSync(two);
      applyEdits(one, made);
      copyTree(b(one), b(two));
      assert.ok(pack(one).equals(pack(two)));
      assert.deepEqual(pack(one), pack(one));
    }),
    { numRuns: 40 },
  );
});

test('a layer packed from the walk, applied by GNU tar to a copy of the base, gives the merged view', async (t) => {
  if (!need(t, 'mount', 'tar')) return;
  await using dir = await tmpfs();
  let run = 0;
  fc.assert(
    fc.property(making(20), edits(20), fc.constantFrom('off', 'on'), (made, changing, redirect) => {
      const at = `${dir.path}/${++run}`;
      const [base, copy] = [`${at}/base`, `${at}/copy`];
      mkdirSync(base, { recursive: true });
      mkdirSync(copy);
      applyEdits(base, made);
      copyTree(b(base), b(copy));
      using layer = overlay(`${at}/layer`, [base], `index=off,redirect_dir=${redirect}`);
      applyEdits(layer.merged, changing);
      applyByGnuTar(pack(layer.merged, base, { upper: b(layer.upper) }), copy);
      // Names that a copy-up alone parted stay linked (driver-behaviour D7, exceptions).
      const strip = (lines: string[]): string[] => lines.map((line) => line.replace(/ link=.*/, ''));
      assert.deepEqual(strip(dumpTree(copy)), strip(dumpTree(layer.merged)));
      for (const line of dumpTree(layer.merged)) {
        if (line.includes(' link=')) assert.ok(dumpTree(copy).includes(line), line);
      }
      rmSync(copy, { recursive: true });
    }),
    { numRuns: 40 },
  );
});

test('packTree() refuses names that would mean a deletion, also of directories on the way', async () => {
  await using dir = await scratch('pack');
  mkdirSync(`${dir.path}/one/.wh.dir/in`, { recursive: true });
  mkdirSync(`${dir.path}/two`);
  writeFileSync(`${dir.path}/two/.wh..wh..opq`, '');
  for (const root of ['one', 'two']) {
    assert.throws(
      () => pack(`${dir.path}/${root}`),
      (error) => isStorageError(error, 'unsupported') && error.message.includes('.wh.'),
    );
  }
  const change: Difference = { kind: 'delete', path: b('/.wh.dir/in/x') };
  assert.throws(
    () => collect(`${dir.path}/one`, [change]),
    (error) => isStorageError(error, 'unsupported'),
  );
});

test('packTree() gives the same of files in memory and on a disk, one behind the other', async (t) => {
  if (!need(t, ...needsOf('ext4'))) return;
  await using disk = await filesystem('ext4', 256);
  const expected: [string, Buffer][] = [];
  for (const [i, length] of [0, 1, 511, 512, 513, 4096, 70_000, 65_536, 65_537, 2_000_000, 3, 40].entries()) {
    for (const at of ['cold', 'hot', 'warm']) {
      const name = `${String(i).padStart(2, '0')}-${at}`;
      expected.push([name, noise(length, i)]);
      writeFileSync(`${disk.path}/${name}`, noise(length, i));
    }
  }
  rmSync(`${disk.path}/lost+found`, { recursive: true });
  const whole = pack(disk.path);
  for (const [name] of expected) if (name.endsWith('cold')) evict(`${disk.path}/${name}`);
  assert.ok(pack(disk.path).equals(whole));
  await using out = await scratch('pack');
  const { status } = spawnSync('tar', ['-x', '-C', out.path], { input: whole });
  assert.equal(status, 0);
  for (const [name, bytes] of expected) assert.ok(readFileSync(`${out.path}/${name}`).equals(bytes), name);
});

test('packTree() fails, naming the file, when it grows, shrinks or vanishes meanwhile', async () => {
  await using dir = await scratch('pack');
  const file = `${dir.path}/file`;
  const big = 3 * 1024 * 1024;
  const touch: Record<string, () => void> = {
    grows: () => appendFileSync(file, 'more'),
    shrinks: () => truncateSync(file, 2 * 1024 * 1024),
  };
  for (const act of Object.values(touch)) {
    writeFileSync(file, Buffer.alloc(big));
    let calls = 0;
    assert.throws(
      () => packTree(b(dir.path), walkDifferences(b(dir.path), undefined), {}, () => void (calls++ === 0 && act())),
      (error) => isStorageError(error, 'failed-precondition') && error.message.includes('"/file"'),
    );
  }
  const gone: Difference = { kind: 'modify', path: b('/gone') };
  assert.throws(
    () => collect(dir.path, [gone]),
    (error) => isStorageError(error) && error.message.includes('"/gone"'),
  );
});

test('packTree() reports sockets and leaves them out, and writes holes as zeros', async (t) => {
  if (!need(t, 'python3')) return;
  await using dir = await scratch('pack');
  writeFileSync(`${dir.path}/hole`, '');
  truncateSync(`${dir.path}/hole`, 5_000_000);
  utimesSync(`${dir.path}/hole`, 1e9, 1e9);
  linkSync(`${dir.path}/hole`, `${dir.path}/link`);
  const server = createServer().listen(`${dir.path}/socket`);
  await new Promise((done) => server.on('listening', done));
  const skipped: string[] = [];
  const tar = pack(dir.path, undefined, { rootPair: { uid: 0, gid: 0 }, skipped: (path) => skipped.push(path) });
  server.close();
  assert.deepEqual(skipped, ['/socket']);
  assert.deepEqual(
    members(tar)
      .filter((line) => !line.startsWith('./'))
      .map((line) => line.replace(/ 644.*/, '')),
    ['hole 0', 'link 1'],
  );
  assert.ok(tar.length > 5_000_000 && tar.length % 512 === 0);
});

test('packTree() takes away what a socket replaced, though it cannot hold the socket', async (t) => {
  if (!need(t, 'python3')) return;
  await using dir = await scratch('pack');
  const [base, view] = [`${dir.path}/base`, `${dir.path}/view`];
  mkdirSync(`${base}/was/full`, { recursive: true });
  mkdirSync(view);
  const servers = ['was', 'new'].map((name) => createServer().listen(`${view}/${name}`));
  await Promise.all(servers.map((server) => new Promise((done) => server.on('listening', done))));
  const skipped: string[] = [];
  const tar = pack(view, base, { skipped: (path) => skipped.push(path) });
  for (const server of servers) server.close();
  assert.deepEqual(skipped, ['/new', '/was']);
  assert.deepEqual(
    members(tar).map((line) => line.split(' ')[0]),
    ['.wh.was'],
  );
});

test('packTree() leaves no descriptor where the upper cannot be opened', async () => {
  await using dir = await scratch('pack');
  const open = (): number => readdirSync('/proc/self/fd').length;
  const before = open();
  for (let i = 0; i < 10; i++) {
    assert.throws(() => collect(dir.path, [], { upper: b(`${dir.path}/none`) }), { code: 'not-found' });
  }
  assert.ok(open() < before + 10);
});

test('packTree() keeps the order of many entries without content behind a file', async () => {
  await using dir = await scratch('pack');
  writeFileSync(`${dir.path}/a`, 'content');
  const names = Array.from({ length: 2000 }, (_, i) => `b${String(i).padStart(4, '0')}`);
  for (const name of names) mkdirSync(`${dir.path}/${name}`);
  writeFileSync(`${dir.path}/c`, 'end');
  const found: string[] = [];
  for await (const { entry } of readTar([pack(dir.path)] as never)) found.push(toText(entry.name));
  assert.deepEqual(
    found.filter((name) => name !== './'),
    ['a', ...names.map((name) => `${name}/`), 'c'],
  );
});

test('packTree() writes what a file with holes has, wherever they lie', async () => {
  await using dir = await scratch();
  const piece = fc.record({ at: fc.nat({ max: 6_000_000 }), size: fc.integer({ min: 1, max: 200_000 }) });
  const holed = fc.record({
    size: fc.integer({ min: 1_000_000, max: 6_000_000 }),
    pieces: fc.array(piece, { maxLength: 6 }),
  });
  let run = 0;
  let skipped = 0;
  fc.assert(
    fc.property(holed, ({ size, pieces }) => {
      const tree = `${dir.path}/${run++}`;
      mkdirSync(tree);
      const fd = openSync(`${tree}/f`, 'w+');
      try {
        for (const { at, size: n } of pieces) writeSync(fd, Buffer.alloc(n, run), 0, n, at);
        ftruncateSync(fd, size);
        if (fstatSync(fd).blocks * 512 < size) skipped++;
        const parts: Buffer[] = [];
        packTree(
          fromText(tree),
          walkDifferences(fromText(tree), undefined),
          {},
          (bytes) => void parts.push(Buffer.from(bytes)),
        );
        const tar = Buffer.concat(parts);
        const content = readFileSync(`${tree}/f`);
        const from = tar.length - 1024 - Math.ceil(size / 512) * 512; // before the trailer
        assert.ok(tar.subarray(from, from + size).equals(content));
      } finally {
        closeSync(fd);
        rmSync(tree, { recursive: true });
      }
    }),
    { numRuns: 60 },
  );
  assert.ok(skipped > run / 2, `only ${skipped} of ${run} files had holes`);
});

test('packTree() writes what a file is when its turn comes, however long the walk held it back', async () => {
  await using dir = await scratch();
  const [view, base] = [`${dir.path}/view`, `${dir.path}/base`];
  mkdirSync(base);
  writeFileSync(`${base}/a`, 'linked');
  linkSync(`${base}/a`, `${base}/b`); // unchanged and linked: the walk waits for what comes
  spawnSync('cp', ['-a', base, view]);
  for (let i = 0; i < 60; i++) writeFileSync(`${view}/c${i}`, Buffer.alloc(200_000, i));
  writeFileSync(`${view}/z.log`, 'short', { mode: 0o644 });
  const parts: Buffer[] = [];
  let first = true;
  packTree(fromText(view), walkDifferences(fromText(view), fromText(base)), {}, (bytes) => {
    if (first) appendFileSync(`${view}/z.log`, ' and more');
    first = false;
    parts.push(Buffer.from(bytes));
  });
  assert.match(Buffer.concat(parts).toString('latin1'), /short and more/);
});

test('packTree() gives its first bytes early, and later ones in pieces of a MiB', async () => {
  await using dir = await scratch();
  for (let i = 0; i < 60; i++) writeFileSync(`${dir.path}/f${i}`, 'x'.repeat(100_000));
  const sizes: number[] = [];
  packTree(b(dir.path), walkDifferences(b(dir.path), undefined), {}, (bytes) => sizes.push(bytes.length));
  assert.ok(sizes[0]! <= 16 * 1024, String(sizes[0]));
  for (const [i, size] of sizes.entries())
    assert.ok(size <= Math.min(2 ** 20, 2 * (sizes[i - 1] ?? size)), sizes.join());
  assert.equal(Math.max(...sizes), 2 ** 20);
  assert.ok(sizes.length < 14, sizes.join());
});
