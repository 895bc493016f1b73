import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openStore } from '../../src/index.ts';
import { LAUNCHER, layerstore } from '../doors/run-cli.ts';
import { filesystem } from '../kit/filesystems.ts';
import { file, layer, ociImage } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';

const MARKER = '.layerstore-saving';

test('save --format oci-dir takes up what a killed one left, but nothing else, and no directory that is being written', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 1024);
  const root = join(disk.path, 'store');
  {
    await using store = await openStore({ root });
    await store.images.load([ociImage([layer(file('big', Buffer.alloc(200 << 20)))], 'big')] as never);
  }
  const out = join(disk.path, 'out');
  const args = ['-q', 'save', 'big:1', '--format', 'oci-dir', '-o', out];
  const save = (): { status: number | null; stderr: string } => layerstore(root, args);
  const writing = async (task: (pid: number) => unknown): Promise<void> => {
    const inode = (): number | undefined => statSync(join(out, 'blobs/sha256'), { throwIfNoEntry: false })?.ino;
    const before = inode();
    const child = spawn(LAUNCHER, args, { env: { ...process.env, LAYERSTORE_ROOT: root }, stdio: 'ignore' });
    const ended = once(child, 'exit');
    while (inode() === before && child.exitCode === null) await sleep(1);
    await task(child.pid as number);
    await ended;
  };

  await writing((pid) => process.kill(pid, 'SIGKILL'));
  assert.ok(readdirSync(out).includes(MARKER), 'it was killed while it wrote');
  writeFileSync(join(out, 'mine'), '');
  const refused = save();
  assert.deepEqual([refused.status, readdirSync(out).includes('mine')], [4, true], refused.stderr);
  assert.match(refused.stderr, /the directory is not empty/);

  unlinkSync(join(out, 'mine'));
  let beside: ReturnType<typeof save> | undefined;
  await writing((pid) => {
    process.kill(pid, 'SIGSTOP');
    beside = save();
    process.kill(pid, 'SIGCONT');
  });
  assert.equal(beside?.status, 4, beside?.stderr);
  assert.match(beside?.stderr ?? '', /another process is saving to it/);
  assert.deepEqual(readdirSync(out), ['blobs', 'index.json', 'oci-layout']);
  assert.match(save().stderr, /the directory is not empty/);

  mkdirSync(join(disk.path, 'other'));
  const again = layerstore(join(disk.path, 'other'), ['-q', 'load', '-i', out]);
  assert.equal(again.status, 0, again.stderr);
});
