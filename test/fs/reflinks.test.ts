import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, statfsSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fromText, toBytes } from '../../src/base/bytes.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import { copyTree } from '../../src/fs/copy.ts';
import { below, id, openHouse } from '../contract/driver-house.ts';
import { filesystem } from '../kit/filesystems.ts';
import { noise } from '../kit/images.ts';
import { need } from '../kit/require.ts';

const MIB = 1 << 20;

/** Flags of a file's extents, as filefrag shows them. */
function extents(path: string): string[] {
  const { stdout, status, stderr } = spawnSync('filefrag', ['-v', path], { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  const lines = stdout.split('\n').filter((line) => /^ *\d+:/.test(line));
  assert.ok(lines.length > 0, stdout);
  return lines.map((line) => line.split(':').at(-1)?.trim() ?? '');
}

test('create() on vfs shares the blocks of the parent where the filesystem has reflinks, until a file is written (V1)', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.xfs', 'filefrag')) return;
  await using disk = await filesystem('xfs');
  const free = (): number => {
    spawnSync('sync', ['-f', disk.path]);
    const { bavail, bsize } = statfsSync(disk.path);
    return bavail * bsize;
  };
  await using h = await openHouse(fromText(disk.path), (settings) => openLayerDriver('vfs', settings));
  const [a, b] = [id('a'), id('b')];
  await h.driver.create(a, { writable: false });
  const base = (await h.driver.content(a)).root;
  const content = noise(24 * MIB, 1);
  for (const name of ['one', 'two']) writeFileSync(below(base, name), content);
  const before = free();
  await h.driver.create(b, { parent: a, writable: true });
  const spent = before - free();
  assert.ok(spent < 2 * MIB, `a copy of 48 MiB took ${spent} bytes`);
  const copy = (await h.driver.content(b)).root;
  for (const name of ['one', 'two']) {
    const path = below(copy, name);
    assert.ok(
      extents(path.toString()).every((flags) => flags.includes('shared')),
      name,
    );
    assert.ok(readFileSync(path).equals(content), name);
  }
  writeFileSync(below(copy, 'one'), 'other');
  assert.ok(readFileSync(below(base, 'one')).equals(content));
  assert.ok(extents(below(base, 'one').toString()).every((flags) => !flags.includes('shared')));
});

test('copyTree() copies where it cannot clone: without reflinks, and across filesystems', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.xfs', 'mkfs.ext4')) return;
  await using disk = await filesystem('xfs');
  await using plain = await filesystem('ext4', 64);
  const content = noise(MIB, 2);
  const from = fromText(`${disk.path}/from`);
  mkdirSync(toBytes(from));
  writeFileSync(below(from, 'file'), content);
  for (const place of [disk.path, plain.path]) {
    const to = fromText(`${place}/to`);
    mkdirSync(toBytes(to));
    copyTree(place === disk.path ? from : fromText(`${disk.path}/to`), to);
    assert.ok(readFileSync(below(to, 'file')).equals(content), place);
  }
  const again = fromText(`${plain.path}/again`);
  mkdirSync(toBytes(again));
  copyTree(fromText(`${plain.path}/to`), again);
  assert.ok(readFileSync(below(again, 'file')).equals(content));
});
