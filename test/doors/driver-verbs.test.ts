import assert from 'node:assert/strict';
import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type LayerId, openDriver } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { layerstore, shell } from './run-cli.ts';
import { makeSampleImage } from './sample-image.ts';

for (const name of ['overlay2', 'vfs']) {
  test(`driver verbs on ${name}: from a tar to a layer, its changes and its tar`, async (t) => {
    if (!need(t, 'root', 'mount', 'tar')) return;
    await using dir = await scratch('verbs');
    const root = join(dir.path, 'root');
    const run = (...args: string[]): string => {
      const { status, stdout, stderr } = layerstore(root, ['--driver', name, 'driver', ...args]);
      assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
      return stdout;
    };
    mkdirSync(join(dir.path, 'tree/d'), { recursive: true });
    writeFileSync(join(dir.path, 'tree/d/file'), 'x'.repeat(1000));
    writeFileSync(join(dir.path, 'tree/gone'), '');

    assert.equal(layerstore(root, ['--driver', name, 'driver', 'status']).status, 3);
    assert.equal(existsSync(root), false, 'a verb that only reads makes no home');
    assert.equal(run('create', 'base'), 'base\n');
    assert.match(run('status'), /^Backing Filesystem: \S+\n/);
    assert.ok(JSON.parse(run('status', '--json')).every((pair: unknown[]) => pair.length === 2));
    assert.equal(layerstore(root, ['--driver', name, 'driver', 'create', 'base']).status, 4);
    const applied = shell(root, `tar -C ${dir.path}/tree -c . | $L --driver ${name} driver apply base`);
    assert.deepEqual([applied.status, applied.stdout], [0, '1000\n'], applied.stderr);
    run('create', 'work', '--parent', 'base', '--read-write');
    assert.equal(run('list'), 'base\nwork\n');
    assert.deepEqual([run('exists', 'work'), run('exists', 'nope')], ['true\n', 'false\n']);

    assert.equal(run('create', 'text'), 'text\n');
    const noTar = layerstore(root, ['--driver', name, 'driver', 'apply', 'text'], { input: 'x'.repeat(5000) });
    assert.equal(noTar.status, 6);
    assert.equal(
      noTar.stderr,
      'layerstore: Cannot read the archive: it is no tar archive; unpack it first, if it is compressed\n',
    );
    run('remove', 'text');

    const path = run('get', 'work').trim();
    assert.equal(run('get', 'work').trim(), path);
    writeFileSync(join(path, 'new'), 'abc');
    run('put', 'work');
    assert.equal(readFileSync(join(path, 'new'), 'utf8'), 'abc', 'the first get still holds it');
    run('put', 'work');
    run('put', 'work');

    assert.equal(run('changes', 'work', 'base'), 'A /new\n');
    assert.equal(run('changes', 'work', 'base', '--json'), '{"kind":"add","path":"/new"}\n');
    assert.equal(run('size', 'work', 'base'), '3\n');
    const names = shell(root, `$L --driver ${name} driver diff work base | tar -t`).stdout;
    assert.equal(names, 'new\n');
    const whole = shell(root, `$L --driver ${name} driver diff work | tar -t`).stdout.split('\n');
    assert.ok(whole.includes('d/file') && whole.includes('new'), whole.join());
    assert.match(run('metadata', 'work'), /^UpperDir\t\/.+$/m);
    assert.equal(JSON.parse(run('metadata', 'work', '--json')).UpperDir.startsWith(`${root}/${name}/`), true);
    run('remove', 'work');
    run('remove', 'work');
    run('cleanup');
    assert.equal(run('list'), 'base\n');
    for (const id of ['..', 'l', 'a/b', '']) {
      assert.equal(layerstore(root, ['--driver', name, 'driver', 'create', id]).status, 2, JSON.stringify(id));
    }
  });
}

test('driver verbs leave the layers of a store alone', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('verbs');
  const id = layerstore(dir.path, ['create', '--name', 'job']).stdout.trim();
  assert.equal(layerstore(dir.path, ['driver', 'exists', id]).stdout, 'true\n');
  for (const args of [
    ['create', 'x'],
    ['remove', id],
    ['apply', id],
  ]) {
    const { status, stderr } = layerstore(dir.path, ['driver', ...args], { input: '' });
    assert.deepEqual([status, /a store owns them/.test(stderr)], [5, true], args.join(' '));
  }
  const path = layerstore(dir.path, ['driver', 'get', id]).stdout.trim();
  assert.equal(layerstore(dir.path, ['rm', 'job']).status, 4, 'the store sees the hold of the verb');
  writeFileSync(join(path, 'x'), '');
  assert.equal(layerstore(dir.path, ['driver', 'put', id]).status, 0);
  assert.equal(layerstore(dir.path, ['rm', 'job']).status, 0);
});

test('driver get --label says where the kernel has no SELinux, and doctor does', async (t) => {
  if (!need(t, 'root', 'mount') || existsSync('/sys/fs/selinux/enforce')) return;
  await using dir = await scratch('verbs');
  const root = join(dir.path, 'root');
  assert.equal(layerstore(root, ['driver', 'create', 'x', '--read-write']).status, 0);
  const got = layerstore(root, ['driver', 'get', 'x', '--label', 'system_u:object_r:x_t:s0']);
  assert.equal(got.status, 0);
  assert.match(got.stderr, /^note: the label "system_u:object_r:x_t:s0" is dropped: .*no SELinux\n$/);
  assert.equal(layerstore(root, ['driver', 'put', 'x']).status, 0);
  assert.match(layerstore(root, ['doctor']).stdout, /^overlay2 +SELinux labels +no +/m);
});

test('a bare driver with layers keeps its root: no store is made there, by whatever command', async (t) => {
  if (!need(t, 'root', 'mount', 'tar')) return;
  await using dir = await scratch('verbs');
  const { archive } = makeSampleImage(dir.path);
  for (const driver of ['overlay2', 'vfs']) {
    const root = join(dir.path, driver);
    assert.equal(layerstore(root, ['--driver', driver, 'driver', 'create', 'mine']).status, 0);
    assert.equal(layerstore(root, ['info']).status, 3);
    for (const args of [
      ['load', '-i', archive],
      ['create', '--name', 'x'],
    ]) {
      const { status, stderr } = layerstore(root, args);
      assert.equal(status, 5, stderr);
      assert.match(
        stderr,
        new RegExp(`the driver ${driver} has layers there already.*another root.*layerstore driver`),
      );
    }
    assert.equal(existsSync(join(root, 'store.db')), false);
    assert.equal(layerstore(root, ['--driver', driver, 'driver', 'remove', 'mine']).status, 0, 'still its own');
    assert.equal(layerstore(root, ['load', '-i', archive]).status, 0, 'a home without layers is no hindrance');
  }
});

test('a user namespace without rights has vfs; ids it has not are 9 with a remedy', async (t) => {
  if (!need(t, 'root', 'mount', 'tar', 'unshare')) return;
  await using disk = await filesystem('tmpfs', 64);
  const { archive } = makeSampleImage(disk.path);
  const inside = (root: string, line: string) => shell(root, `unshare -r $L ${line}`);
  const own = join(disk.path, 'own');
  const loaded = inside(own, `load -i '${archive}'`);
  assert.equal(loaded.status, 0, loaded.stderr);
  const { driver } = JSON.parse(inside(own, 'info --json').stdout);
  assert.equal(driver.name, 'vfs');
  assert.equal(inside(own, 'check --deep').stderr, 'no faults\n');
  const tree = join(disk.path, 'tree');
  mkdirSync(tree);
  writeFileSync(join(tree, 'file'), '');
  chownSync(join(tree, 'file'), 1234, 1234);
  const store = join(disk.path, 'store');
  assert.equal(layerstore(store, ['--driver', 'vfs', 'driver', 'create', 'x']).status, 0);
  const unmapped = shell(store, `tar -C '${tree}' -c file | unshare -r $L --driver vfs driver apply x`);
  assert.equal(unmapped.status, 9, unmapped.stderr);
  assert.match(unmapped.stderr, /^layerstore: .* to 1234:1234: .*does not map.*; run it as the host's root[^\n]*\n$/);
});

test('driver verbs tell lost links and tampered files, sizes without quotas, wrong options and too many layers by their codes', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await filesystem('tmpfs', 64);
  const root = join(dir.path, 'root');
  const home = join(root, 'overlay2');
  const run = (...args: string[]) => layerstore(root, ['--driver', 'overlay2', ...args]);
  {
    await using driver = await openDriver({ root, driver: 'overlay2' });
    let parent: LayerId | undefined;
    for (let depth = 0; depth <= 128; depth++) {
      const id = `layer-${depth}` as string as LayerId;
      await driver.create(id, { writable: false, ...(parent === undefined ? {} : { parent }) });
      parent = id;
    }
  }
  const cases: readonly [number, RegExp, readonly string[]][] = [
    [5, /max depth exceeded.*129.*128/, ['driver', 'create', 'deep', '--parent', 'layer-128']],
    [5, /quota/, ['driver', 'create', 'limited', '--parent', 'layer-0', '--read-write', '--storage-opt', 'size=1G']],
    [2, /other/, ['driver', 'create', 'other', '--read-write', '--storage-opt', 'other=1']],
    [5, /quota/, ['--driver-opt', 'overlay2.size=10G', 'driver', 'list']],
    [2, /overlay2\.nosuch/, ['--driver-opt', 'overlay2.nosuch=1', 'driver', 'list']],
    [0, /^$/, ['--driver-opt', 'vfs.other=1', 'driver', 'exists', 'layer-0']],
  ];
  for (const [code, message, args] of cases) {
    const { status, stderr } = run(...args);
    assert.equal(status, code, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, message, args.join(' '));
  }
  assert.deepEqual(
    readdirSync(home).filter((name) => /^(deep|limited|other)$/.test(name)),
    [],
  );
  rmSync(join(home, 'l', readFileSync(join(home, 'layer-0/link'), 'utf8')));
  writeFileSync(join(home, 'layer-5/link'), '../../etc');
  for (const args of [
    ['metadata', 'layer-1'],
    ['get', 'layer-2'],
    ['metadata', 'layer-5'],
    ['changes', 'layer-5'],
  ]) {
    const { status, stderr } = run('driver', ...args);
    assert.equal(status, 6, `${args.join(' ')}: ${stderr}`);
  }
});
