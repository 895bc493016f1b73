import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { openThreads } from '../../src/graph/threads.ts';
import { need } from '../kit/require.ts';

const MODULE = JSON.stringify(new URL('../../src/graph/threads.ts', import.meta.url).href);

test('openThreads() can be closed while its threads load: the process goes on', (t) => {
  if (!need(t, 'root')) return;
  // In a process of its own: a native module that is cut off while it is loaded ends the process.
  const program = `
    import { openThreads } from ${MODULE};
    for (let i = 0; i < 15; i++) {
      const threads = await openThreads(2, { jobs: 2, mounts: true });
      await new Promise((resolve) => setTimeout(resolve, i * 8));
      await threads[Symbol.asyncDispose]();
    }
    console.log('all closed');`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', program], {
    encoding: 'utf8',
    timeout: 60_000,
  });
  assert.deepEqual([status, stdout], [0, 'all closed\n'], stderr);
});

test('openThreads() starts what it is told ahead, and syncs on a thread that has nothing to do', async (t) => {
  if (!need(t, 'root')) return;
  await using threads = await openThreads(2, { jobs: 2 });
  assert.equal(threads.jobs.idle, 2);
  await threads.perform.sync('/tmp' as never);
  assert.equal(threads.jobs.idle, 2);
});
