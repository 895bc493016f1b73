import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { layerstore } from '../doors/run-cli.ts';
import { deletersOf } from '../kit/deleters.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';

test('rm of a layer whose tree cannot be deleted starts one process, which gives up; gc deletes it once it can', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'chattr')) return;
  await using disk = await filesystem('ext4', 64);
  const root = join(disk.path, 'store');
  const home = join(root, 'overlay2');
  assert.equal(layerstore(root, ['create', '--name', 'work']).status, 0);
  const path = layerstore(root, ['mount', 'work']).stdout.trim();
  const file = join(path, 'immutable');
  writeFileSync(file, 'x');
  assert.equal(layerstore(root, ['umount', 'work']).status, 0);
  const aside = (): string[] => readdirSync(home).filter((name) => name.startsWith('.removing-'));
  assert.equal(spawnSync('chattr', ['+i', file]).status, 0);
  try {
    assert.equal(layerstore(root, ['rm', 'work']).status, 0);
    const seen = new Set<number>();
    for (let quiet = 0; quiet < 20; ) {
      const now = deletersOf(root);
      for (const pid of now) seen.add(pid);
      assert.ok(seen.size <= 1, `processes ${[...seen].join(', ')} came one after another`);
      quiet = now.length === 0 ? quiet + 1 : 0;
      await sleep(50);
    }
    assert.equal(aside().length, 1);
  } finally {
    spawnSync('chattr', ['-R', '-i', home]);
  }
  assert.equal(layerstore(root, ['gc', '--wait']).status, 0);
  assert.deepEqual(aside(), []);
});
