import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { layerstore, shell } from './run-cli.ts';

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

    assert.match(run('status'), /^Backing Filesystem: \S+\n/);
    assert.ok(JSON.parse(run('status', '--json')).every((pair: unknown[]) => pair.length === 2));
    assert.equal(run('create', 'base'), 'base\n');
    assert.equal(layerstore(root, ['--driver', name, 'driver', 'create', 'base']).status, 4);
    const applied = shell(root, `tar -C ${dir.path}/tree -c . | $L --driver ${name} driver apply base`);
    assert.deepEqual([applied.status, applied.stdout], [0, '1000\n'], applied.stderr);
    run('create', 'work', '--parent', 'base', '--read-write');
    assert.equal(run('list'), 'base\nwork\n');
    assert.deepEqual([run('exists', 'work'), run('exists', 'nope')], ['true\n', 'false\n']);

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
