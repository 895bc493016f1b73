import assert from 'node:assert/strict';
import { createWriteStream, mkdtempDisposableSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type TestContext, test } from 'node:test';
import { dumpTree } from '../kit/tree-dump.ts';
import { commitChanged } from './changed-image.ts';
import { type Loaded, withLoaded } from './loaded.ts';
import { skopeo, storeAt, tool, viewOf } from './tool.ts';

interface Saved extends Loaded {
  /** As skopeo and others spell it: transport, colon, path. */
  readonly forms: Readonly<Record<'oci' | 'docker' | 'oci-dir', string>>;
}

/** The strange image, loaded and saved in every form. */
async function withSaved(
  t: TestContext,
  tools: readonly string[],
  run: (saved: Saved) => Promise<void>,
): Promise<void> {
  await withLoaded(t, tools, async (loaded) => {
    const { directory, image, store } = loaded;
    const at = (name: string): string => join(directory, name);
    await pipeline(store.images.save([image.reference]), createWriteStream(at('saved.oci.tar')));
    const docker = store.images.save([image.reference], { format: 'docker' });
    await pipeline(docker, createWriteStream(at('saved.docker.tar')));
    await store.images.saveDirectory([image.reference], at('saved'));
    const forms = {
      oci: `oci-archive:${at('saved.oci.tar')}:1`,
      docker: `docker-archive:${at('saved.docker.tar')}:${image.reference}`,
      'oci-dir': `oci:${at('saved')}:1`,
    };
    await run({ ...loaded, forms });
  });
}

interface Inspected {
  readonly Layers: readonly string[];
}

test('images.save() gives archives whose layers skopeo finds by their diff ids, in every form', async (t) => {
  await withSaved(t, ['skopeo'], async ({ image, forms }) => {
    for (const form of Object.values(forms)) {
      const { Layers } = JSON.parse(await skopeo('inspect', form)) as Inspected;
      assert.deepEqual(Layers, image.diffIds, form);
      const config = JSON.parse(await skopeo('inspect', '--config', form)) as { rootfs: { diff_ids: string[] } };
      assert.deepEqual(config.rootfs.diff_ids, image.diffIds, form);
    }
  });
});

test('images.save() gives archives that skopeo copies into every other form, and load() takes back', async (t) => {
  await withSaved(t, ['skopeo'], async ({ directory, image, forms }) => {
    for (const [form, from] of Object.entries(forms)) {
      const at = (name: string): string => join(directory, `${form}-${name}`);
      // skopeo checks every digest of what it copies.
      await skopeo('copy', '-q', from, `dir:${at('dir')}`);
      await skopeo('copy', '-q', from, `docker-archive:${at('docker.tar')}:${image.reference}`);
      await skopeo('copy', '-q', from, `oci-archive:${at('oci.tar')}:${image.reference}`);
      await skopeo('copy', '-q', '--dest-compress-format=zstd', '--dest-compress', from, `oci:${at('zstd')}:1`);
      for (const archive of [at('docker.tar'), at('oci.tar'), at('zstd')]) {
        await using store = await storeAt(`${archive}.store`, 'overlay2');
        const [loaded] = await store.images.load(archive);
        assert.equal(loaded?.id, image.configDigest, archive);
        assert.deepEqual(loaded?.diffIds, image.diffIds, archive);
      }
    }
  });
});

test('images.saveDirectory() gives a layout that umoci unpacks to the same tree', async (t) => {
  await withSaved(t, ['umoci'], async ({ directory, image, store }) => {
    const bundle = join(directory, 'bundle');
    await tool('umoci', ['unpack', '--image', `${join(directory, 'saved')}:1`, bundle]);
    assert.deepEqual(dumpTree(join(bundle, 'rootfs')), await viewOf(store, image.reference));
  });
});

test('images.save() gives archives of loaded and committed images that podman loads, and load() takes what it saves of them', async (t) => {
  await withSaved(t, ['podman', 'runc'], async ({ directory, image, store }) => {
    await commitChanged(store, image.reference);
    for (const reference of [image.reference, 'changed:2']) {
      const { id, diffIds } = await store.images.get(reference);
      const tree = await viewOf(store, reference);
      for (const form of ['oci', 'docker'] as const) {
        const at = (name: string): string => join(directory, `${reference.replace(':', '-')}-${form}-${name}`);
        await pipeline(store.images.save([reference], { format: form }), createWriteStream(at('ours.tar')));
        // It takes 50 characters at most for its run directory.
        using run = mkdtempDisposableSync('/tmp/lsp-');
        const podman = podmanAt(at('podman'), run.path, directory);
        await podman('load', '-q', '-i', at('ours.tar'));
        const [inspected] = JSON.parse(await podman('image', 'inspect', reference)) as [
          { Id: string; RootFS: { Layers: string[] } },
        ];
        assert.deepEqual(inspected.RootFS.Layers, diffIds, form);
        assert.equal(`sha256:${inspected.Id}`, id);
        for (const format of ['docker-archive', 'oci-archive']) {
          const saved = at(`${format}.tar`);
          await podman('save', '-q', '--format', format, '-o', saved, reference);
          await using again = await storeAt(`${saved}.store`, 'overlay2');
          const [loaded] = await again.images.load(saved);
          assert.equal(loaded?.id, id, `${form}, ${format}`);
          assert.deepEqual(loaded?.diffIds, diffIds, `${form}, ${format}`);
        }
        // Its storage gives the root a mode of its own (0555).
        const theirs = await mountedByPodman(podman, reference);
        assert.deepEqual(theirs.slice(1), tree.slice(1), `${reference}, ${form}`);
      }
    }
  });
});

type Podman = (...args: readonly string[]) => Promise<string>;

/** podman on storage of its own below `root`. */
function podmanAt(root: string, run: string, scratch: string): Podman {
  const places = [
    '--root',
    `${root}/s`,
    '--runroot',
    `${run}/r`,
    '--tmpdir',
    `${run}/t`,
    '--storage-driver',
    'overlay',
  ];
  const choices = ['--runtime', 'runc', '--cgroup-manager', 'cgroupfs', '--events-backend', 'none'];
  return (...args) => tool('podman', [...places, ...choices, ...args], { TMPDIR: scratch });
}

async function mountedByPodman(podman: Podman, reference: string): Promise<string[]> {
  const mounted = (await podman('image', 'mount', reference)).trim();
  try {
    return dumpTree(mounted);
  } finally {
    await podman('image', 'unmount', reference);
  }
}
