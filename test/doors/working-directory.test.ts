import assert from 'node:assert/strict';
import { mkdirSync, rmdirSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { openStore } from '../../src/index.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';
import { fails } from '../transport/archives.ts';
import { shell } from './run-cli.ts';

// Node starts no thread, and resolves no relative path, in a working directory that was removed.

test('layerstore in a working directory that was removed says so in one line, with 5', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('removed');
  const store = join(dir.path, 'store');
  for (const command of ['--root relative images', 'load -i relative.tar', 'driver create x']) {
    const line = `mkdir '${dir.path}/gone' && cd '${dir.path}/gone' && rmdir '${dir.path}/gone' && $L ${command}`;
    const { status, stdout, stderr } = shell(store, line);
    assert.deepEqual([status, stdout], [5, ''], `${command}: ${stderr}`);
    // dash has its own word on it, before it runs the launcher.
    const [said, ...more] = stderr.split('\n').filter((one) => !/^(sh|\S+\/sh): .*getcwd/.test(one));
    assert.match(
      said ?? '',
      /^layerstore: Cannot [^;]+: the working directory was removed; change to one that exists$/,
    );
    assert.deepEqual(more, ['']);
  }
  const without = `mkdir '${dir.path}/gone' && cd '${dir.path}/gone' && rmdir '${dir.path}/gone' && $L version`;
  assert.equal(shell(store, without).status, 0);
  // What needs no thread and no relative path does not care.
  for (const command of ['tag a:1 b:1', 'rm x', 'images']) {
    const line = `mkdir '${dir.path}/gone' && cd '${dir.path}/gone' && rmdir '${dir.path}/gone' && $L ${command}`;
    assert.equal(shell(store, line).status, 3, command);
  }
});

test('a store in a process whose working directory was removed: failed-precondition, and well again elsewhere', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using dir = await scratch('removed');
  const gone = join(dir.path, 'gone');
  const home = process.cwd();
  const packed = (): Readable => Readable.from([gzipSync(Buffer.alloc(1024))]);
  await using store = await openStore({ root: join(dir.path, 'store'), driver: 'overlay2' });
  mkdirSync(gone);
  process.chdir(gone);
  rmdirSync(gone);
  try {
    const removed = fails('failed-precondition', /the working directory was removed; change to one that exists/);
    await assert.rejects(openStore({ root: '/somewhere' }), removed);
    await assert.rejects(store.images.load('relative.tar'), removed);
    await assert.rejects(store.images.load(packed()), removed); // the first job thread
  } finally {
    process.chdir(home);
  }
  await assert.rejects(store.images.load(packed()), fails('unsupported', /no image archive/));
});
