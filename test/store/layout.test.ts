import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statfsSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { test } from 'node:test';
import { type ErrorCode, isStorageError } from '../../src/base/errors.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { hub, imageOf, layersOf, load, open } from './database-sample.ts';

async function refuses(promise: Promise<unknown>, code: ErrorCode, text: RegExp): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(isStorageError(error), String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, text);
    assert.doesNotMatch(error.message, /\n/);
    return true;
  });
}

test('openDatabase() makes a store that others cannot enter, whatever the umask', async () => {
  await using dir = await scratch('db');
  for (const mask of [0, 0o022, 0o777]) {
    const root = join(dir.path, `umask-${mask}`, 'store');
    // Above the root the umask is the caller's business.
    mkdirSync(join(root, '..'), { recursive: true });
    const before = process.umask(mask);
    try {
      await using db = await open(root);
      await db.begin([{ kind: 'file', name: 'tmp/x' }]);
      const mode = (path: string): string => (statSync(path).mode & 0o7777).toString(8);
      assert.equal(mode(root), '710');
      for (const path of [db.layout.records, db.layout.tmp, join(root, 'run'), db.layout.run, db.layout.sessions]) {
        assert.equal(mode(path), '700', path);
      }
      for (const end of ['', '-wal', '-shm']) assert.equal(mode(db.layout.database + end), '600', end);
    } finally {
      process.umask(before);
    }
  }
});

test('openDatabase() closes a root that was made for others, and keeps a stricter mode', async () => {
  await using dir = await scratch('db');
  for (const [given, expected] of [
    [0o755, 0o710],
    [0o1777, 0o710],
    [0o700, 0o700],
    [0o750, 0o750],
  ] as const) {
    const root = join(dir.path, given.toString(8));
    mkdirSync(root);
    chmodSync(root, given);
    await using db = await open(root);
    assert.equal(statSync(db.layout.root).mode & 0o7777, expected);
    chmodSync(db.layout.records, 0o777);
    await using _again = await open(root);
    assert.equal(statSync(db.layout.records).mode & 0o7777, 0o700);
  }
});

test('openDatabase() answers the root without symlinks and dots, relative to where the caller was', async () => {
  await using dir = await scratch('db');
  mkdirSync(join(dir.path, 'real'));
  symlinkSync('real', join(dir.path, 'link'));
  const cwd = process.cwd();
  process.chdir(dir.path);
  const opening = open('link/../link/store');
  process.chdir(cwd);
  await using db = await opening;
  assert.equal(db.layout.root, join(dir.path, 'real', 'store'));
});

test('openDatabase() refuses a directory that is not a store, and touches nothing in it', async () => {
  await using dir = await scratch('db');
  const root = join(dir.path, 'full');
  mkdirSync(root);
  for (const name of ['a', 'b', 'c', 'd\u001b']) writeFileSync(join(root, name), '');
  await refuses(
    open(root),
    'failed-precondition',
    /not a store and not empty \(it holds ".*" and 1 more\); name an empty/,
  );
  assert.deepEqual(readdirSync(root).length, 4);
  writeFileSync(join(dir.path, 'file'), '');
  await refuses(open(join(dir.path, 'file')), 'failed-precondition', /no directory/);
  await refuses(open(join(dir.path, 'file', 'below')), 'failed-precondition', /no directory/);
});

test('openDatabase() makes a store beside drivers\u2019 homes and a filesystem\u2019s lost+found', async () => {
  await using dir = await scratch('db');
  for (const name of ['overlay2', 'vfs', 'lost+found', '.layerstore-probe-1']) mkdirSync(join(dir.path, name));
  writeFileSync(join(dir.path, '.store.db.left-over'), '');
  await using db = await open(dir.path);
  assert.equal(db.driver, 'overlay2');
  assert.equal(existsSync(join(dir.path, '.store.db.left-over')), false);
});

test('openDatabase() with create: false never makes a store', async () => {
  await using dir = await scratch('db');
  await refuses(open(join(dir.path, 'none'), { create: false }), 'not-found', /there is no store/);
  await refuses(open(dir.path, { create: false }), 'not-found', /there is no store/);
  assert.deepEqual(readdirSync(dir.path), []);
});

test('openDatabase() leaves nothing where no driver can be chosen', async () => {
  await using dir = await scratch('db');
  const failure = new Error('no driver works here');
  const choose = async (root: string): Promise<never> => {
    assert.ok(existsSync(root));
    throw failure;
  };
  await assert.rejects(open(join(dir.path, 'a'), { choose }), failure);
  await assert.rejects(open(dir.path, { choose }), failure);
  assert.deepEqual(readdirSync(dir.path), []);
});

test('openDatabase() keeps to the driver that the store was made with', async () => {
  await using dir = await scratch('db');
  {
    await using db = await open(dir.path, { choose: async () => 'vfs' });
    assert.equal(db.driver, 'vfs');
  }
  const never = async (): Promise<never> => assert.fail('chosen again');
  {
    await using db = await open(dir.path, { choose: never });
    assert.equal(db.driver, 'vfs');
  }
  await using _same = await open(dir.path, { asked: 'vfs', choose: never });
  await refuses(open(dir.path, { asked: 'overlay2' }), 'failed-precondition', /made with the driver vfs, not overlay2/);
});

test('openDatabase() refuses a newer format and another program\u2019s database', async () => {
  await using dir = await scratch('db');
  {
    await using _db = await open(dir.path);
  }
  const file = join(dir.path, 'store.db');
  const set = (sql: string): void => {
    const db = new DatabaseSync(file);
    db.exec(sql);
    db.close();
  };
  set('PRAGMA user_version = 2');
  const before = readFileSync(file);
  await refuses(open(dir.path), 'failed-precondition', /format 2, this layerstore knows up to 1; use a newer/);
  assert.ok(readFileSync(file).equals(before));
  set('PRAGMA user_version = 1; PRAGMA application_id = 7');
  await refuses(open(dir.path), 'failed-precondition', /not the database of a layerstore/);
  set('PRAGMA application_id = 1818327411');
  await using db = await open(dir.path);
  assert.deepEqual(await db.check(), []);
});

test('openDatabase() and check() say that a database is damaged', async () => {
  await using dir = await scratch('db');
  const good = join(dir.path, 'good');
  {
    await using db = await open(good);
    const layers = layersOf(['a', 'b']);
    const images = Array.from({ length: 50 }, (_, i) => imageOf(`${i}`, layers, [hub(`n:${i}`)]));
    await load(db, layers, images);
  }
  const broken = (name: string, spoil: (file: string) => void): string => {
    const root = join(dir.path, name);
    mkdirSync(join(root, 'records'), { recursive: true });
    copyFileSync(join(good, 'store.db'), join(root, 'store.db'));
    spoil(join(root, 'store.db'));
    return root;
  };
  await refuses(
    open(broken('text', (file) => writeFileSync(file, 'hello '.repeat(1000)))),
    'corrupt',
    /not a database/,
  );
  await refuses(open(broken('empty', (file) => truncateSync(file, 0))), 'corrupt', /empty/);
  await refuses(open(broken('cut', (file) => truncateSync(file, 8192))), 'corrupt', /damaged/);
  const missing = broken('missing', () => {});
  await using gone = await scratch('db');
  mkdirSync(join(gone.path, 'records'));
  await refuses(open(gone.path), 'corrupt', /store\.db is gone/);

  const spoiled = broken('spoiled', (file) => {
    const bytes = readFileSync(file);
    bytes.fill(0xa5, bytes.length - 3 * 4096);
    writeFileSync(file, bytes);
  });
  await using db = await open(spoiled);
  const faults = await db.check();
  assert.ok(faults.length > 0);
  for (const fault of faults) assert.equal(fault.where, 'store.db');

  await using sound = await open(missing);
  assert.deepEqual(await sound.check(), []);
});

test('check() finds what the schema cannot refuse', async () => {
  await using dir = await scratch('db');
  await using db = await open(dir.path);
  const layers = layersOf(['a', 'b']);
  await load(db, layers, [imageOf('x', layers, [hub('x:1')])]);
  const direct = new DatabaseSync(db.layout.database, { enableForeignKeyConstraints: false });
  direct.exec(`UPDATE layers SET chain_id = diff_id WHERE parent IS NOT NULL;
    UPDATE images SET config = x'00'; UPDATE manifests SET bytes = x'00';
    INSERT INTO refs VALUES ('lost', 'sha256:none', 0)`);
  direct.close();
  const faults = (await db.check()).map((fault) => fault.what).join('\n');
  for (const part of [
    'its chain id is',
    'its config has',
    'its bytes have',
    'a row of "refs" refers to a row of "images"',
  ]) {
    assert.match(faults, new RegExp(part));
  }
});

test('a full filesystem is resource-exhausted, nothing is lost, and the same request works when there is room', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await scratch('db');
  const mount = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'none', dir.path]);
  assert.equal(mount.status, 0, String(mount.stderr));
  try {
    await using db = await open(dir.path);
    const layers = layersOf(['a']);
    await load(db, layers, [imageOf('small', layers, [hub('small:1')])]);
    const big = imageOf('x'.repeat(300_000), layers, [hub('big:1')]);
    const { bavail, bsize } = statfsSync(dir.path);
    writeFileSync(join(dir.path, 'tmp', 'filler'), Buffer.alloc(bavail * bsize - 65536));
    await refuses(
      db.commitImages({ layers: [], images: [big], blobs: [] }),
      'resource-exhausted',
      /the disk is full but for what removing takes/,
    );
    assert.deepEqual(
      (await db.images()).flatMap((image) => image.names),
      [hub('small:1')],
    );
    truncateSync(join(dir.path, 'tmp', 'filler'));
    await db.commitImages({ layers: [], images: [big], blobs: [] });
    assert.deepEqual(await db.check(), []);

    const full = join(dir.path, 'nested');
    const left = statfsSync(dir.path);
    writeFileSync(join(dir.path, 'tmp', 'filler'), Buffer.alloc(left.bavail * left.bsize - 8192));
    await refuses(open(full), 'resource-exhausted', /no space left/);
    assert.equal(existsSync(full), false);
  } finally {
    spawnSync('umount', ['-l', dir.path]);
  }
});
