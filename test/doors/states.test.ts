import assert from 'node:assert/strict';
import { chmodSync, globSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { layerstore, type Ran, shell } from './run-cli.ts';
import { makeSampleImage } from './sample-image.ts';

test('commands tell the state of a store: faults are 1, paths are let go of, limits refused, lists made short', async (t) => {
  if (!need(t, 'root', 'mount', 'tar')) return;
  await using disk = await filesystem('tmpfs', 256);
  const { archive } = makeSampleImage(disk.path);
  const root = join(disk.path, 'store');
  const run = (...args: string[]): Ran => layerstore(root, args);
  const ok = (...args: string[]): string => {
    const { status, stdout, stderr } = run(...args);
    assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
    return stdout;
  };
  ok('load', '-i', archive);
  const id = ok('create', 'sample:1', '--name', 'work').trim();
  assert.equal(ok('ls', '-q').trim(), id.slice(0, 12));
  assert.match(run('changes', 'work', '--explain').stderr, /^upper: /);
  const quota = run('create', 'sample:1', '--storage-opt', 'size=1G');
  assert.equal(quota.status, 5, quota.stderr);
  assert.match(quota.stderr, /quota|limit/);
  assert.equal(run('create', 'sample:1', '--storage-opt', 'other=1').status, 2);
  // By the path that mount printed, twice mounted and twice let go.
  const path = ok('mount', 'work').trim();
  assert.equal(ok('mount', 'work').trim(), path);
  ok('umount', path);
  assert.match(ok('ls'), / yes /);
  ok('umount', path);
  assert.equal(run('umount', path).status, 3, 'nothing is mounted there');
  const view = ok('mount', '--read-only', 'sample:1').trim();
  ok('umount', view);
  // A layer whose file was changed behind the store's back: only a deep look finds it; one that is gone, any.
  assert.equal(ok('check'), '');
  const [motd] = globSync(`${root}/overlay2/*/diff/etc/motd`);
  writeFileSync(motd as string, 'other\n');
  ok('check');
  const deep = run('check', '--deep');
  assert.equal(deep.status, 1);
  assert.match(deep.stdout, /changed|make sha256/);
  const home = (motd as string).slice(0, -'/diff/etc/motd'.length);
  renameSync(home, `${home}.away`);
  assert.equal(run('check').status, 1);
  assert.equal(run('save', 'sample:1', '-o', join(disk.path, 'x.tar')).status, 6);
  renameSync(`${home}.away`, home);
  // What no archive of ours is.
  for (const [program, name] of [
    ['bzip2', 'bzip2'],
    ['xz', 'xz'],
  ] as const) {
    if (shell(root, `${program} -c '${archive}' > '${archive}.x'`).status !== 0) continue;
    const { status, stderr } = run('load', '-i', `${archive}.x`);
    assert.equal(status, 5, stderr);
    assert.match(stderr, new RegExp(name));
  }
  rmSync(`${archive}.x`, { force: true });
  chmodSync(root, 0o710);
});

test('driver changes, diff and size compare with any ancestor, or with nothing (D6)', async (t) => {
  if (!need(t, 'root', 'mount', 'tar')) return;
  await using disk = await filesystem('tmpfs', 256);
  for (const driver of ['overlay2', 'vfs']) {
    const root = join(disk.path, driver);
    const verb = (...args: string[]): string => {
      const { status, stdout, stderr } = layerstore(root, ['--driver', driver, 'driver', ...args]);
      assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
      return stdout;
    };
    let parent: string[] = [];
    for (const [i, name] of ['a', 'b', 'c'].entries()) {
      verb('create', name, ...parent);
      const tar = `mkdir -p '${disk.path}/t' && cd '${disk.path}/t' && rm -rf ./* && printf %0${i + 1}d 0 > ${name} && tar -c ${name}`;
      const applied = shell(root, `${tar} | "$L" --root '${root}' --driver ${driver} driver apply ${name}`);
      assert.equal(applied.status, 0, applied.stderr);
      parent = ['--parent', name];
    }
    assert.equal(verb('changes', 'c', 'b').trim(), 'A /c', driver);
    assert.equal(verb('changes', 'c', 'a').trim(), 'A /b\nA /c', driver);
    assert.equal(verb('changes', 'c').trim(), 'A /a\nA /b\nA /c', driver);
    assert.equal(verb('size', 'c', 'b').trim(), '3', driver);
    assert.equal(verb('size', 'c', 'a').trim(), '5', driver);
    const listed = shell(root, `"$L" --root '${root}' --driver ${driver} driver diff c a | tar -t`);
    assert.equal(listed.stdout, 'b\nc\n', `${driver}: ${listed.stderr}`);
    for (const name of ['c', 'b', 'a']) verb('remove', name);
  }
});
