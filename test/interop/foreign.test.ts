import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { applyEdits, CAP_NET_RAW } from '../kit/edits.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { commitChanged } from './changed-image.ts';
import { makeStrangeImage } from './strange-image.ts';
import { skopeo, storeAt, tool, viewOf } from './tool.ts';

test('images.load() takes docker archives and layouts that skopeo wrote, with the same diff ids', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar', 'skopeo')) return;
  await using fs = await filesystem('ext4');
  const image = await makeStrangeImage(fs.path);
  const from = `oci:${image.layout}:1`;
  const targets = {
    'docker.tar': 'docker-archive:%:docker.io/library/strange:1',
    'oci.tar': 'oci-archive:%:docker.io/library/strange:1',
    oci: 'oci:%:1',
  };
  for (const [name, target] of Object.entries(targets)) {
    const path = join(fs.path, name);
    await skopeo('copy', '-q', from, target.replace('%', path));
    await using store = await storeAt(`${path}.store`, 'overlay2');
    const [loaded] = await store.images.load(path);
    assert.equal(loaded?.id, image.configDigest, name);
    assert.deepEqual(loaded?.diffIds, image.diffIds, name);
    if (name !== 'oci') assert.deepEqual(loaded?.names, ['docker.io/library/strange:1'], name);
  }
});

test('images.load() takes a layer that umoci packed, and shows the tree it was packed from', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar', 'umoci')) return;
  await using fs = await filesystem('ext4');
  const image = await makeStrangeImage(fs.path);
  // umoci copies an entry's full name to the one it adds, and two entries of one full name are one image.
  const index = join(image.layout, 'index.json');
  writeFileSync(index, readFileSync(index, 'utf8').replace(/"io.containerd.image.name":"[^"]*",/, ''));
  const [bundle, rootfs] = [join(fs.path, 'bundle'), join(fs.path, 'bundle/rootfs')];
  await tool('umoci', ['unpack', '--image', `${image.layout}:1`, bundle]);
  applyEdits(rootfs, [
    { do: 'delete', path: 'names' },
    { do: 'delete', path: 'app/lib/a' },
    { do: 'create', path: 'app/added', seed: 5 },
    { do: 'link', path: 'app/added', to: 'app/added-too' },
    { do: 'chmod', path: 'etc/passwd', mode: 0o600 },
    { do: 'xattr', path: 'etc/passwd', name: 'user.a', value: '\0\xff' },
    { do: 'delete', path: 'data/old' },
    { do: 'replace', path: 'app/c', by: 'directory' },
  ]);
  await tool('umoci', ['repack', '--image', `${image.layout}:2`, bundle]);
  await using store = await storeAt(join(fs.path, 'store'), 'overlay2');
  const loaded = await store.images.load(image.layout);
  const second = loaded.find((one) => one.diffIds.length === 4);
  assert.ok(second !== undefined, `two images, one of four layers: ${loaded.length}`);
  // It lists no directory that differs in its time only.
  assert.deepEqual(rounded(await viewOf(store, second.id, 'loose')), rounded(dumpTree(rootfs, 'loose')));
});

test('images.load() makes no directory for a whiteout that lies below a symlink to nowhere, as umoci packs it', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar', 'umoci')) return;
  await using fs = await filesystem('ext4');
  const image = await makeStrangeImage(fs.path);
  const bundle = join(fs.path, 'bundle');
  await tool('umoci', ['unpack', '--image', `${image.layout}:1`, bundle]);
  // umoci writes the symlink `data/old` and then `data/old/.wh.new`.
  applyEdits(join(bundle, 'rootfs'), [{ do: 'replace', path: 'data/old', by: 'symlink' }]);
  await tool('umoci', ['repack', '--image', `${image.layout}:1`, bundle]);
  await using store = await storeAt(join(fs.path, 'store'), 'overlay2');
  const [loaded] = await store.images.load(image.layout);
  const seen = await viewOf(store, loaded?.id ?? '');
  assert.deepEqual(rounded(seen), rounded(dumpTree(join(bundle, 'rootfs'))));
});

/** A dump with times in whole seconds: to the nearest, as Go's tar writes them without PAX, or cut, as buildah does. */
function rounded(lines: readonly string[], how: (seconds: number) => number = Math.round): string[] {
  return lines.map((line) => line.replace(/ (\d{19})\b/, (_, ns: string) => ` ${how(Number(ns) / 1e9)}`));
}

test('images.load() takes what buildah committed', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'buildah', 'runc')) return;
  await using fs = await filesystem('ext4');
  const places = ['--root', `${fs.path}/s`, '--runroot', `${fs.path}/r`, '--storage-driver', 'overlay'];
  const buildah = async (...args: string[]): Promise<string> =>
    (await tool('buildah', [...places, ...args], { TMPDIR: fs.path, BUILDAH_RUNTIME: 'runc' })).trim();
  const container = await buildah('from', 'scratch');
  const mounted = await buildah('mount', container);
  applyEdits(mounted, [
    // Its own root is 0555, and the archive does not say so.
    { do: 'chmod', path: '.', mode: 0o755 },
    { do: 'mkdir', path: 'bin' },
    { do: 'create', path: 'bin/a', seed: 1 },
    { do: 'link', path: 'bin/a', to: 'bin/b' },
    { do: 'xattr', path: 'bin/a', name: 'security.capability', value: CAP_NET_RAW },
    { do: 'device', path: 'null', block: false, minor: 3 },
  ]);
  writeFileSync(`${mounted}/file`, 'content');
  const expected = dumpTree(mounted);
  for (const form of ['oci-archive', 'docker-archive', 'oci']) {
    const path = join(fs.path, form);
    await buildah('commit', '-q', container, `${form}:${path}:localhost/built:1`);
    await using store = await storeAt(`${path}.store`, 'overlay2');
    const [loaded] = await store.images.load(path);
    assert.equal(loaded?.diffIds.length, 1, form);
    const seen = await viewOf(store, loaded?.id ?? '');
    assert.deepEqual(rounded(seen), rounded(expected, Math.floor), form);
  }
});

test('layer.commit() makes an image that skopeo and umoci take, with the tree that was mounted', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar', 'skopeo', 'umoci')) return;
  await using fs = await filesystem('ext4');
  const image = await makeStrangeImage(fs.path);
  for (const driver of ['overlay2', 'vfs'] as const) {
    await using store = await storeAt(join(fs.path, driver), driver);
    await store.images.load(image.layout);
    const { image: committed, tree: expected } = await commitChanged(store, image.reference);
    const layout = join(fs.path, `${driver}.layout`);
    await store.images.saveDirectory([committed], layout);

    const config = JSON.parse(await skopeo('inspect', '--config', `oci:${layout}:2`)) as {
      config: { Cmd: string[] };
      rootfs: { diff_ids: string[] };
      history: { comment?: string; empty_layer?: boolean }[];
    };
    assert.deepEqual(config.rootfs.diff_ids, [...image.diffIds, committed.diffIds.at(-1)]);
    assert.deepEqual(config.config.Cmd, ['true']);
    assert.equal(config.history.filter((entry) => entry.empty_layer !== true).length, 4);
    await skopeo('copy', '-q', `oci:${layout}:2`, `dir:${join(fs.path, `${driver}.dir`)}`);

    assert.deepEqual(await viewOf(store, 'changed:2'), expected, driver);
    const bundle = join(fs.path, `${driver}.bundle`);
    await tool('umoci', ['unpack', '--image', `${layout}:2`, bundle]);
    assert.deepEqual(dumpTree(join(bundle, 'rootfs')), expected, `${driver}, umoci`);
  }
});
