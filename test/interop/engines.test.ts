import assert from 'node:assert/strict';
import { createWriteStream, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type TestContext, test } from 'node:test';
import type { Digest } from '../../src/index.ts';
import { chainIds } from '../../src/oci/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { needPeers, peersIn, startContainerd, startDockerd } from '../kit/peers.ts';
import { need } from '../kit/require.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { makeStrangeImage, type StrangeImage } from './strange-image.ts';
import { storeAt, tool, viewOf } from './tool.ts';

// Real engines: LAYERSTORE_PEERS names a directory of their programs.

const peers = peersIn();

interface Loaded {
  readonly directory: string;
  readonly image: StrangeImage;
  /** The image as `images.save` wrote it. */
  readonly archives: Readonly<Record<'oci' | 'docker', string>>;
  /** Its tree in our store. */
  readonly tree: readonly string[];
}

async function withSaved(
  t: TestContext,
  programs: readonly string[],
  run: (loaded: Loaded) => Promise<void>,
): Promise<void> {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar') || !needPeers(t, peers, ...programs)) return;
  await using fs = await filesystem('ext4', 1024);
  const image = await makeStrangeImage(fs.path);
  const archives = { oci: join(fs.path, 'saved.oci.tar'), docker: join(fs.path, 'saved.docker.tar') };
  let tree: readonly string[];
  {
    await using store = await storeAt(join(fs.path, 'store'), 'overlay2');
    await store.images.load(image.layout);
    for (const format of ['oci', 'docker'] as const) {
      await pipeline(store.images.save([image.reference], { format }), createWriteStream(archives[format]));
    }
    tree = await viewOf(store, image.reference);
  }
  await run({ directory: fs.path, image, archives, tree });
}

/** What an engine saved is the image that it was given. */
async function assertLoads(archive: string, image: StrangeImage): Promise<void> {
  await using store = await storeAt(`${archive}.store`, 'overlay2');
  const [loaded] = await store.images.load(archive);
  assert.equal(loaded?.id, image.configDigest, archive);
  assert.deepEqual(loaded?.diffIds, image.diffIds, archive);
  assert.deepEqual(loaded?.names, ['docker.io/library/strange:1'], archive);
}

async function mounted(at: string, mount: (target: string) => Promise<unknown>): Promise<string[]> {
  mkdirSync(at);
  await mount(at);
  try {
    return dumpTree(at);
  } finally {
    await tool('umount', [at]);
  }
}

/** The tree of a committed snapshot of containerd. */
function snapshot(ctr: readonly string[], image: StrangeImage, at: string): Promise<string[]> {
  const [program, ...args] = [peers.findIn('directory', 'ctr') as string, ...ctr];
  const chainId = chainIds(image.diffIds as readonly Digest[]).at(-1) as string;
  return mounted(at, async (target) => {
    const line = await tool(program, [...args, 'snapshots', 'view', '--target', target, `view-${Date.now()}`, chainId]);
    await tool('sh', ['-c', line]);
  });
}

const DOCKERS = [
  { name: 'docker 28 with overlay2', dockerd: 'dockerd-28', driver: 'overlay2' },
  { name: "docker 29 with containerd's store", dockerd: 'dockerd', driver: undefined },
] as const;

for (const { name, dockerd, driver } of DOCKERS) {
  test(`images.save() gives archives that ${name} loads to the same tree, and load() takes what it saves`, async (t) => {
    await withSaved(t, [dockerd, 'docker', 'containerd', 'ctr'], async ({ directory, image, archives, tree }) => {
      for (const [form, archive] of Object.entries(archives)) {
        const home = join(directory, form[0] as string);
        mkdirSync(home);
        const program = peers.findIn('directory', dockerd) as string;
        await using daemon = await startDockerd(home, {
          dockerd: program,
          path: peers.path,
          ...(driver === undefined ? {} : { driver }),
        });
        const docker = (...args: readonly string[]): Promise<string> =>
          tool(peers.findIn('directory', 'docker') as string, args, {
            DOCKER_HOST: `unix://${daemon.socket}`,
            DOCKER_CONFIG: home,
          });
        await docker('load', '-q', '-i', archive);
        const [inspected] = JSON.parse(await docker('image', 'inspect', 'strange:1')) as [
          { RootFS: { Layers: string[] }; GraphDriver?: { Data: Record<string, string> | null } },
        ];
        assert.deepEqual(inspected.RootFS.Layers, image.diffIds, form);
        const at = join(home, 'seen');
        const data = inspected.GraphDriver?.Data;
        const seen =
          driver === undefined
            ? await snapshot(['-a', join(home, 'docker-exec/containerd/containerd.sock'), '-n', 'moby'], image, at)
            : await mounted(at, (target) =>
                tool('mount', [
                  '-t',
                  'overlay',
                  'overlay',
                  '-o',
                  `ro,lowerdir=${data?.['UpperDir']}:${data?.['LowerDir']}`,
                  target,
                ]),
              );
        assert.deepEqual(seen, tree, form);
        const saved = join(home, 'theirs.tar');
        await docker('save', '-o', saved, 'strange:1');
        await assertLoads(saved, image);
      }
    });
  });
}

test('images.save() gives archives that containerd imports to the same tree, and load() takes what it exports', async (t) => {
  await withSaved(t, ['containerd', 'ctr'], async ({ directory, image, archives, tree }) => {
    for (const [form, archive] of Object.entries(archives)) {
      const home = join(directory, form[0] as string);
      mkdirSync(home);
      const containerd = peers.findIn('directory', 'containerd') as string;
      await using daemon = await startContainerd(home, { containerd, path: peers.path });
      const address = ['-a', daemon.socket];
      const ctr = (...args: readonly string[]): Promise<string> =>
        tool(peers.findIn('directory', 'ctr') as string, [...address, ...args]);
      await ctr('images', 'import', archive);
      assert.deepEqual(await snapshot(address, image, join(home, 'seen')), tree, form);
      const exported = join(home, 'theirs.tar');
      // Without --local, ctr 2.4 often succeeds with an archive that is cut off (6 of 80 tries).
      await ctr('images', 'export', '--local', exported, 'docker.io/library/strange:1');
      await assertLoads(exported, image);
    }
  });
});
