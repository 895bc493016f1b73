import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { StorageError } from '../../src/base/errors.ts';
import type { Performer } from '../../src/driver/driver.ts';
import { isLayerId } from '../../src/driver/ids.ts';
import { type ChooseOptions, chooseDriver } from '../../src/driver/open.ts';
import { ownOptions, parseDriverOptions, parseSize } from '../../src/driver/options.ts';
import { formatLower, parseLower } from '../../src/driver/overlay/home.ts';
import { bareRunDirectory } from '../../src/driver/run-directory.ts';
import { formatVfsRecord, parseVfsRecord } from '../../src/driver/vfs.ts';
import { rejects } from '../contract/driver-suite.ts';
import { inlinePerformer } from '../kit/inline-performer.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';

test('chooseDriver() takes the first that works, and says why (D5)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('choose');
  await using perform = inlinePerformer();
  const root = fromText(dir.path);
  const choice = await chooseDriver(root, { perform, options: [] });
  assert.equal(choice.name, 'overlay2');
  assert.equal(choice.home, `${root}/overlay2`);
  assert.deepEqual(readdirSync(dir.path), [], 'choosing makes nothing');
  const without = await chooseDriver(root, { perform: refusing(perform), options: [] });
  assert.equal(without.name, 'vfs');
  assert.match(without.because, /overlay2 is not possible in .*: an overlay with two lowers does not mount/);
});

test('chooseDriver() goes by the layers that are there; several are an error that names them; vfs never counts (D5)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('choose');
  await using perform = inlinePerformer();
  const root = fromText(dir.path);
  const choose = (options: Partial<ChooseOptions> = {}) => chooseDriver(root, { perform, options: [], ...options });
  mkdirSync(`${dir.path}/vfs/dir`, { recursive: true });
  mkdirSync(`${dir.path}/aufs`);
  assert.equal((await choose()).name, 'overlay2');
  mkdirSync(`${dir.path}/overlay2/x`, { recursive: true });
  assert.match((await choose()).because, /layers are there/);
  await rejects(choose({ perform: refusing(perform) }), 'unsupported', /overlay2/);
  mkdirSync(`${dir.path}/aufs/x`);
  await rejects(choose(), 'failed-precondition', /"overlay2" and "aufs"/);
  assert.equal((await choose({ name: 'vfs' })).name, 'vfs');
});

test('chooseDriver() takes the named driver or says why not (D5)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('choose');
  await using perform = inlinePerformer();
  const root = fromText(dir.path);
  await rejects(
    chooseDriver(root, { perform, name: 'btrfs', options: [] }),
    'unsupported',
    /"btrfs".*"overlay2" and "vfs"/,
  );
  await rejects(chooseDriver(root, { perform, name: '__proto__', options: [] }), 'unsupported');
  await rejects(
    chooseDriver(root, { perform: refusing(perform), name: 'overlay2', options: [] }),
    'unsupported',
    /overlay2/,
  );
});

test('chooseDriver() refuses options before any probe, and drops those of other drivers (D1)', async (t) => {
  await using dir = await scratch('choose');
  const root = fromText(dir.path);
  const untouched = refusing(undefined);
  for (const option of [
    'overlay2.colour=red',
    'overlay2.size',
    'overlay2.size=x',
    'overlay2.override_kernel_check=maybe',
    'colour=red',
  ]) {
    await rejects(
      chooseDriver(root, { perform: untouched, options: [option] }),
      'invalid-argument',
      new RegExp(`overlay2 option "${option}"`),
    );
  }
  if (!need(t, 'root', 'mount')) return; // taking a driver tries it
  const options = ['dm.fs=xfs', 'zfs.fsname=x', 'aufs.x=1', 'vfs.size=1G', 'Overlay2.Size=0'];
  assert.deepEqual(ownOptions('overlay2', options), ['Overlay2.Size=0']);
  assert.deepEqual((await chooseDriver(root, { perform: untouched, name: 'vfs', options })).options, ['vfs.size=1G']);
});

test('parseDriverOptions() reads keys of any case, booleans and sizes (D1, O4)', () => {
  const read = parseDriverOptions('overlay2', ['OVERLAY2.SIZE=1.5g', 'overlay2.override_kernel_check=TRUE']);
  assert.deepEqual(read, { sizeBytes: 1.5 * 2 ** 30 });
  assert.throws(() => parseDriverOptions('overlay2', ['__proto__=1']), { code: 'invalid-argument' });
});

test('parseSize() counts in units of 1024 (O4)', () => {
  const table: readonly (readonly [string, number | undefined])[] = [
    ['0', 0],
    ['10G', 10 * 2 ** 30],
    ['1.5g', 1.5 * 2 ** 30],
    ['512 m', 512 * 2 ** 20],
    ['10GiB', 10 * 2 ** 30],
    ['10gb', 10 * 2 ** 30],
    ['7b', 7],
    ['0.1k', 102],
    ['1t', 2 ** 40],
    ['9p', undefined], // more bytes than a number counts exactly
    ['', undefined],
    ['-1', undefined],
    ['1..5g', undefined],
    ['1e3', undefined],
    ['10 iB', undefined],
    ['0x10', undefined],
    ['1g1', undefined],
    ['١', undefined],
  ];
  for (const [text, expected] of table) assert.equal(parseSize(text), expected, text);
});

test('isLayerId() takes one path component of 1 to 255 bytes that has no other meaning (D2b)', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.integer({ min: 0, max: 255 }).map((code) => String.fromCharCode(code)), maxLength: 300 }),
      (text) => {
        const plain = text.length >= 1 && text.length <= 255 && !/[/\0\n]/.test(text) && !text.startsWith('.');
        const expected = plain && !text.endsWith('-removing') && text !== 'l' && text !== 'backingFsBlockDev';
        assert.equal(isLayerId(text as ByteString), expected);
      },
    ),
  );
});

test('parseLower() and formatLower() are inverse, and read nothing else', () => {
  const link = fc.string({
    unit: fc.constantFrom(...'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'),
    minLength: 26,
    maxLength: 26,
  });
  fc.assert(
    fc.property(fc.array(link, { minLength: 1, maxLength: 130 }), (links) => {
      const lower = links.map((one) => `l/${one}`).join(':') as ByteString;
      assert.equal(formatLower(parseLower(lower, 'x' as ByteString)), lower);
    }),
  );
  fc.assert(
    fc.property(fc.string(), (text) => {
      assert.throws(() => parseLower(text as ByteString, 'x' as ByteString), { code: 'corrupt' });
    }),
  );
});

test('parseVfsRecord() and formatVfsRecord() are inverse', () => {
  const record = fc.record(
    {
      parent: fc.constantFrom('a', 'x y', '\xff\xfe', 'state sealed'),
      state: fc.constantFrom('writable', 'read-only', 'sealed'),
    },
    { requiredKeys: ['state'] },
  );
  fc.assert(
    fc.property(record, (one) => {
      const text = formatVfsRecord(one as Parameters<typeof formatVfsRecord>[0]);
      assert.deepEqual({ ...parseVfsRecord(text as ByteString, 'x' as ByteString) }, { ...one });
    }),
  );
});

test('bareRunDirectory() is one for each home, and refuses what others could write (D3b)', async (t) => {
  if (process.geteuid?.() === 0) {
    const run = bareRunDirectory('/var/lib/some home' as ByteString);
    assert.match(run, /^\/run\/layerstore\/[0-9a-f]{32}$/);
    assert.equal(run, bareRunDirectory('/var/lib/some home' as ByteString));
    assert.notEqual(run, bareRunDirectory('/var/lib/other' as ByteString));
    assert.equal(statSync(run).mode & 0o7777, 0o700);
    spawnSync('rmdir', [run, bareRunDirectory('/var/lib/other' as ByteString)]);
  }
  if (!need(t, 'root', 'setpriv', 'open-checkout')) return;
  await using dir = await scratch('run');
  chmodSync(dir.path, 0o777);
  mkdirSync(`${dir.path}/layerstore`);
  writeFileSync(`${dir.path}/layerstore/x`, '');
  const script = `import { bareRunDirectory } from ${JSON.stringify(new URL('../../src/driver/run-directory.ts', import.meta.url).pathname)};
    try { console.log(bareRunDirectory('/x')); } catch (error) { console.log(error.code); }`;
  const asNobody = (XDG_RUNTIME_DIR: string): string =>
    spawnSync('setpriv', ['--reuid=65534', '--clear-groups', process.execPath, '--input-type=module', '-e', script], {
      encoding: 'utf8',
      env: { ...process.env, XDG_RUNTIME_DIR },
    }).stdout.trim();
  assert.equal(asNobody(dir.path), 'permission-denied', "the directory is root's");
  mkdirSync(`${dir.path}/own`, { mode: 0o777 });
  chmodSync(`${dir.path}/own`, 0o777);
  assert.match(asNobody(`${dir.path}/own`), /\/own\/layerstore\/[0-9a-f]{32}$/);
  assert.equal(existsSync(`${dir.path}/own/layerstore`), true);
});

/** A Performer whose mounts fail, as on a machine that does not allow them. */
function refusing(real: Performer | undefined): Performer {
  const refuse = async (): Promise<never> => {
    throw new StorageError('permission-denied', 'Cannot mount: not permitted (EPERM)', {
      syscall: 'mount',
      errno: 'EPERM',
    });
  };
  if (real === undefined) return { mount: refuse, unmount: refuse, removeTree: refuse, copyTree: refuse, sync: refuse };
  return { ...real, mount: refuse };
}
