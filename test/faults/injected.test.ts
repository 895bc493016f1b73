import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { layerstore } from '../doors/run-cli.ts';
import { makeSampleImage } from '../doors/sample-image.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';

const LAUNCHER = fileURLToPath(new URL('../../bin/layerstore', import.meta.url));

/** What is made to fail, and at which of its calls in the whole process. */
const FAULTS: readonly (readonly [call: string, error: string, at: readonly number[]])[] = [
  ['unlinkat', 'EIO', [1, 2, 3]],
  ['mkdirat', 'ENOSPC', [1, 3, 6]],
  ['syncfs', 'EIO', [1, 2]],
  ['fchown', 'EIO', [1, 5]],
  ['openat2', 'ENOSYS', [1]],
  ['renameat', 'EIO', [1, 3]],
];

test('load() with a failing system call ends soon with one line, leaves a sound store, and then works', async (t) => {
  if (!need(t, 'root', 'mount', 'tar', 'strace')) return;
  await using disk = await filesystem('tmpfs', 256);
  const { archive } = makeSampleImage(disk.path);
  const root = join(disk.path, 'store');
  assert.equal(layerstore(root, ['info']).status, 0);
  let failed = 0;
  for (const [call, error, at] of FAULTS) {
    for (const n of at) {
      const inject = [
        '-f',
        '-qq',
        '-o',
        '/dev/null',
        '-e',
        `trace=${call}`,
        '-e',
        `inject=${call}:error=${error}:when=${n}`,
      ];
      const run = spawnSync('strace', [...inject, LAUNCHER, '--root', root, 'load', '-q', '-i', archive], {
        encoding: 'utf8',
        timeout: 60_000,
      });
      const what = `${call} ${n} ${error}: ${run.status} ${run.signal} ${run.stderr}`;
      assert.equal(run.signal, null, `${what}: it hangs`);
      const lines = run.stderr.split('\n').filter((line) => line !== '' && !line.startsWith('layerstore: warning: '));
      assert.equal(lines.length, run.status === 0 ? 0 : 1, what);
      if (run.status !== 0) failed++;
      const check = layerstore(root, ['check']);
      assert.equal(check.status, 0, `${what}: ${check.stdout}`);
      assert.equal(layerstore(root, ['load', '-q', '-i', archive]).status, 0, what);
      assert.equal(layerstore(root, ['rmi', 'sample:1']).status, 0, what);
    }
  }
  assert.ok(failed > 4, `only ${failed} of the faults were seen`);
});
