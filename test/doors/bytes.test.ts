import assert from 'node:assert/strict';
import { mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { shell } from './run-cli.ts';
import { makeSampleImage } from './sample-image.ts';

// Paths that are not UTF-8, as a shell gives them. `load -i` and `cp`: cli.test.ts.

test('layerstore refuses a root that is not UTF-8 with 2, from the option and from the environment, and makes nothing', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('bytes');
  for (const line of [`$L --root $'${dir.path}/\\xff' info`, `LAYERSTORE_ROOT=$'${dir.path}/\\xff' $L info`]) {
    const { status, stdout, stderr } = shell(join(dir.path, 'unused'), line);
    assert.deepEqual([status, stdout], [2, '']);
    assert.match(
      stderr,
      /^layerstore: Cannot run "info": (the root "[^"]*\\xff"|LAYERSTORE_ROOT) is not UTF-8[^\n]*\n$/,
    );
  }
  assert.deepEqual(readdirSync(dir.path), []);
});

test('layerstore save --format oci-dir takes a directory that is not UTF-8, absent or empty', async (t) => {
  if (!need(t, 'mount', 'tar')) return;
  await using dir = await scratch('bytes');
  mkdirSync(join(dir.path, 'image'));
  const { archive } = makeSampleImage(join(dir.path, 'image'));
  const root = join(dir.path, 'store');
  const at = `$'${dir.path}/\\xff/layout'`;
  const save = `$L -q save sample:1 --format oci-dir -o ${at}`;
  const { status, stderr, stdout } = shell(
    root,
    `$L -q load -i ${archive} >/dev/null && ${save} && ls ${at} && ${save}`,
  );
  assert.equal(stdout, 'blobs\nindex.json\noci-layout\n');
  assert.equal(status, 4, stderr);
  assert.match(stderr, /the directory is not empty/);
  // What cannot be saved leaves no directory.
  const absent = shell(
    root,
    `$L -q save absent:1 --format oci-dir -o $'${dir.path}/\\xfe'; ls -d $'${dir.path}/\\xfe'`,
  );
  assert.match(absent.stderr, /No such file/);
});
