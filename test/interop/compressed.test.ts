import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { dumpTree } from '../kit/tree-dump.ts';
import { type Loaded, withLoaded } from './loaded.ts';
import { skopeo, storeAt, tool, viewOf } from './tool.ts';

const KINDS = ['gzip', 'zstd'] as const;

/** The strange image, saved as `KIND` directories and `KIND.tar` archives. */
async function withSaved(
  t: TestContext,
  tools: readonly string[],
  run: (saved: Loaded) => Promise<void>,
): Promise<void> {
  await withLoaded(t, tools, async (loaded) => {
    const { directory, image, store } = loaded;
    for (const compress of KINDS) {
      await store.images.saveDirectory([image.reference], join(directory, compress), { compress });
      await using file = await open(join(directory, `${compress}.tar`), 'wx+');
      await store.images.saveTo([image.reference], file.fd, { compress });
    }
    await run(loaded);
  });
}

interface Manifest {
  readonly layers: readonly { readonly mediaType: string; readonly digest: string; readonly size: number }[];
}

test('images.save() with compress gives layouts that skopeo verifies and copies, with the media types of their blobs', async (t) => {
  await withSaved(t, ['skopeo'], async ({ directory, image }) => {
    for (const kind of KINDS) {
      for (const from of [`oci:${join(directory, kind)}:1`, `oci-archive:${join(directory, `${kind}.tar`)}:1`]) {
        const manifest = JSON.parse(await skopeo('inspect', '--raw', from)) as Manifest;
        for (const { mediaType } of manifest.layers) {
          assert.equal(mediaType, `application/vnd.oci.image.layer.v1.tar+${kind}`);
        }
        const config = JSON.parse(await skopeo('inspect', '--config', from)) as { rootfs: { diff_ids: string[] } };
        assert.deepEqual(config.rootfs.diff_ids, image.diffIds);
        const at = join(directory, `${kind}-${from.split(':')[0]}`);
        // It checks every digest of what it copies. Into a docker archive it takes no zstd.
        await skopeo('copy', '-q', from, `oci:${at}:1`);
        if (kind === 'gzip') await skopeo('copy', '-q', from, `docker-archive:${at}.tar:${image.reference}`);
        await using store = await storeAt(`${at}.store`, 'overlay2');
        const [loaded] = await store.images.load(kind === 'gzip' ? `${at}.tar` : at);
        assert.equal(loaded?.id, image.configDigest);
      }
    }
  });
});

test('images.saveDirectory() with compress gives a layout that umoci unpacks to the same tree', async (t) => {
  await withSaved(t, ['umoci'], async ({ directory, image, store }) => {
    const bundle = join(directory, 'bundle');
    await tool('umoci', ['unpack', '--image', `${join(directory, 'gzip')}:1`, bundle]);
    assert.deepEqual(dumpTree(join(bundle, 'rootfs')), await viewOf(store, image.reference));
  });
});

test('images.saveDirectory() with compress gives blobs that gzip, pigz, zstd and bsdcat read', async (t) => {
  await withSaved(t, ['gzip', 'pigz', 'zstd', 'bsdcat', 'cmp'], async ({ directory }) => {
    for (const kind of KINDS) {
      const blobs = join(directory, kind, 'blobs/sha256');
      const index = JSON.parse(readFileSync(join(directory, kind, 'index.json'), 'utf8')) as {
        manifests: readonly { digest: string }[];
      };
      const manifest = readFileSync(join(blobs, (index.manifests[0]?.digest ?? '').slice(7)), 'utf8');
      for (const { digest } of (JSON.parse(manifest) as Manifest).layers) {
        const blob = join(blobs, digest.slice(7));
        for (const program of kind === 'gzip' ? ['gzip', 'pigz'] : ['zstd']) {
          await tool('sh', ['-c', `exec ${program} -t < "$0"`, blob]);
        }
        const line = `bsdcat "$0" > "$1" && ${kind} -dc < "$0" | cmp - "$1"`;
        await tool('sh', ['-c', line, blob, join(directory, 'plain')]);
      }
    }
  });
});
