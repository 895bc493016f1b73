import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { layerstore, shell } from './run-cli.ts';
import { makeSampleImage } from './sample-image.ts';

test('save and diff take --compress, for files, pipes and directories; what was saved loads', async (t) => {
  if (!need(t, 'root', 'mount', 'tar', 'gzip', 'zstd')) return;
  await using dir = await scratch('compress');
  const root = join(dir.path, 'store');
  const image = makeSampleImage(dir.path);
  const ok = (...args: readonly string[]): string => {
    const { status, stdout, stderr } = layerstore(root, args);
    assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
    return `${stdout}${stderr}`;
  };
  ok('load', '-i', image.archive);
  ok('create', 'sample:1', '--name', 'job');
  for (const kind of ['gzip', 'zstd']) {
    const at = (name: string): string => join(dir.path, `${kind}-${name}`);
    assert.match(ok('save', 'sample:1', '-o', at('file'), '--compress', kind), new RegExp(`saved with ${kind},`));
    ok('save', 'sample:1', '-o', at('layout'), '--format', 'oci-dir', '--compress', kind);
    assert.equal(shell(root, `$L save sample:1 --compress ${kind} > ${at('pipe')}`).status, 0);
    assert.ok(readFileSync(at('pipe')).equals(readFileSync(at('file'))));
    for (const saved of ['file', 'layout']) {
      const { status, stderr } = layerstore(at(`${saved}-store`), ['load', '-i', at(saved)]);
      assert.equal(status, 0, stderr);
    }
    ok('diff', 'job', '-o', at('diff'), '--compress', kind);
    assert.equal(shell(root, `$L diff job | cmp - <(${kind} -dc < ${at('diff')})`).status, 0);
  }
  const wrong: readonly (readonly string[])[] = [
    ['save', 'sample:1', '-o', join(dir.path, 'out'), '--compress', 'xz'],
    ['save', 'sample:1', '-o', join(dir.path, 'out'), '--compress', 'gzip', '--format', 'docker'],
    ['diff', 'job', '-o', join(dir.path, 'out'), '--compress', 'xz'],
  ];
  for (const args of wrong) {
    const { status, stderr } = layerstore(root, args);
    assert.equal(status, 2, stderr);
    assert.match(stderr, /none of none, gzip, zstd|take the format oci/);
  }
});
