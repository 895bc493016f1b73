import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { makeSampleImage } from './sample-image.ts';

function example(name: string, ...args: string[]): string {
  const path = fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, [path, ...args], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.equal(status, 0, stderr);
  return stdout;
}

test('examples run one after another on one store', async (t) => {
  if (!need(t, 'root', 'mount', 'tar')) return;
  await using dir = await scratch('examples');
  const { archive, configDigest } = makeSampleImage(dir.path);
  const root = join(dir.path, 'root');
  const saved = join(dir.path, 'saved.tar');
  const loaded = example('load-and-change.ts', root, archive, saved);
  assert.match(loaded, /^driver \w+: .+\nloaded docker\.io\/library\/sample:1\nadd \/hello\.txt\nsaved sha256:/);
  assert.equal(existsSync(saved), true);
  const forks = example('fork-a-sandbox.ts', root, 'sample:1', '2');
  assert.match(forks, /written by fork 0 /);
  assert.match(forks, /written by fork 1 /);
  assert.match(forks, /^Cannot .*$/m);
  const listed = example('list-images.ts', root);
  assert.ok(listed.includes(`docker.io/library/sample:1 ${configDigest}`), listed);
  assert.ok(listed.includes('docker.io/library/example:changed '), listed);
});

test('an example that fails, or is given too little, ends in one line', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('examples');
  const lines = (name: string, ...args: string[]): readonly [number | null, number] => {
    const path = fileURLToPath(new URL(`../../examples/${name}`, import.meta.url));
    const { status, stderr } = spawnSync(process.execPath, [path, ...args], { encoding: 'utf8', timeout: 60_000 });
    return [status, stderr.trimEnd().split('\n').length];
  };
  const none = join(dir.path, 'none');
  for (const name of ['list-images.ts', 'fork-a-sandbox.ts', 'convert-archive.ts', 'load-and-change.ts']) {
    assert.deepEqual(lines(name), [2, 1], name);
    assert.deepEqual(lines(name, none, none, none), [1, 1], name);
  }
});
