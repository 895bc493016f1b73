import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { openThreads } from '../../src/graph/threads.ts';
import { isStorageError, openDriver } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { file, layer } from '../kit/layer-builder.ts';
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

test('settle() of full copies in one chain is refused, and nothing of them is lost silently', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  await using driver = await openDriver({ root: disk.path, driver: 'vfs', threads: 2 });
  const tar = async function* (name: string): AsyncGenerator<Uint8Array> {
    yield layer(file(name, name));
  };
  const unpacked = [];
  for (const id of ['a', 'b'] as never[]) {
    await driver.create(id, { writable: true });
    unpacked.push(await driver.unpack(id, tar(id)));
  }
  await assert.rejects(driver.settle(unpacked), (error) => isStorageError(error, 'invalid-argument'));
  for (const one of unpacked) await one.settle();
  assert.deepEqual(
    ['a', 'b'].map((id) => readdirSync(`${disk.path}/vfs/dir/${id}`)),
    [['a'], ['b']],
  );
});
