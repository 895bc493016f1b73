import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { DriverName } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { makeStrangeImage } from './strange-image.ts';
import { storeAt, tool, viewOf } from './tool.ts';

const DRIVERS: readonly DriverName[] = ['overlay2', 'vfs'];

for (const driver of DRIVERS) {
  test(`images.load() on ${driver} makes the tree that umoci makes of the same layers`, async (t) => {
    if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar', 'umoci')) return;
    await using fs = await filesystem('ext4');
    const image = await makeStrangeImage(fs.path);
    await using store = await storeAt(join(fs.path, 'store'), driver);
    const [loaded] = await store.images.load(image.layout);
    assert.deepEqual(loaded?.diffIds, image.diffIds);
    assert.equal(loaded?.id, image.configDigest);
    assert.deepEqual(loaded?.notes, []);
    await tool('umoci', ['unpack', '--image', `${image.layout}:1`, join(fs.path, 'bundle')]);
    assert.deepEqual(await viewOf(store, image.reference), dumpTree(join(fs.path, 'bundle/rootfs')));
  });

  test(`images.load() on ${driver} makes the tree that GNU tar makes of a single layer`, async (t) => {
    if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar')) return;
    await using fs = await filesystem('ext4');
    const image = await makeStrangeImage(fs.path, 1);
    const expected = join(fs.path, 'expected');
    mkdirSync(expected);
    const how = ['--xattrs', '--xattrs-include=*', '--numeric-owner', '--same-owner', '-p'];
    await tool('tar', [...how, '-xf', image.tars[0] as string, '-C', expected]);
    await using store = await storeAt(join(fs.path, 'store'), driver);
    await store.images.load(image.layout);
    assert.deepEqual(await viewOf(store, image.reference), dumpTree(expected));
  });
}
