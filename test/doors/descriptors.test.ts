import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { layerstore, shell } from './run-cli.ts';
import { makeSampleImage } from './sample-image.ts';

test('load without enough descriptors ends at once with one line and 8, leaves nothing, and then works', async (t) => {
  if (!need(t, 'root', 'mount', 'tar')) return;
  await using disk = await filesystem('tmpfs', 256);
  const { archive } = makeSampleImage(disk.path);
  const root = join(disk.path, 'store');
  assert.equal(layerstore(root, ['create']).status, 0);
  let refused = 0;
  for (let descriptors = 34; descriptors < 70; descriptors += 4) {
    const { status, stderr } = shell(root, `ulimit -n ${descriptors}; exec "$L" load -q -i '${archive}'`);
    assert.ok(status === 0 || status === 8, `${descriptors} descriptors: ${status} ${stderr}`);
    if (status === 8) refused++;
    const lines = stderr.split('\n').filter((line) => line !== '' && !line.startsWith('layerstore: warning: '));
    assert.equal(lines.length, status === 0 ? 0 : 1, stderr);
    assert.equal(layerstore(root, ['check']).status, 0);
    layerstore(root, ['rmi', 'sample:1']);
  }
  assert.ok(refused > 0, 'none was too few');
  assert.match(layerstore(root, ['load', '-i', archive]).stdout, /^sample:1 /);
});
