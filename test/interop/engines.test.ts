import assert from 'node:assert/strict';
import { createWriteStream, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type TestContext, test } from 'node:test';
import type { Digest, Image } from '../../src/index.ts';
import { chainIds } from '../../src/oci/chain-id.ts';
import { filesystem } from '../kit/filesystems.ts';
import { needPeers, type PeersPlace, peersIn, startContainerd, startDockerd } from '../kit/peers.ts';
import { need } from '../kit/require.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { commitChanged } from './changed-image.ts';
import { makeStrangeImage } from './strange-image.ts';
import { dockerOn, storeAt, tool, viewOf } from './tool.ts';

// Real engines: those of the system, and those in the directory that LAYERSTORE_PEERS names.

const peers = peersIn();

interface Saved {
  readonly image: Pick<Image, 'id' | 'diffIds'>;
  /** Short. */
  readonly reference: string;
  /** In our store. */
  readonly tree: readonly string[];
}

interface Fixture {
  readonly directory: string;
  /** An image that others packed, and one that was committed on it here. */
  readonly images: readonly Saved[];
  /** Both, as `images.save` wrote them. */
  readonly archives: Readonly<Record<'oci' | 'docker', string>>;
}

async function withSaved(
  t: TestContext,
  where: PeersPlace,
  programs: readonly string[],
  run: (fixture: Fixture) => Promise<void>,
): Promise<void> {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar') || !needPeers(t, peers, where, ...programs)) return;
  await using fs = await filesystem('ext4', 1024);
  const strange = await makeStrangeImage(fs.path);
  const archives = { oci: join(fs.path, 'saved.oci.tar'), docker: join(fs.path, 'saved.docker.tar') };
  const images: Saved[] = [];
  {
    await using store = await storeAt(join(fs.path, 'store'), 'overlay2');
    await store.images.load(strange.layout);
    await commitChanged(store, strange.reference);
    for (const reference of [strange.reference, 'changed:2']) {
      images.push({ image: await store.images.get(reference), reference, tree: await viewOf(store, reference) });
    }
    for (const format of ['oci', 'docker'] as const) {
      const bytes = store.images.save(
        images.map(({ reference }) => reference),
        { format },
      );
      await pipeline(bytes, createWriteStream(archives[format]));
    }
  }
  await run({ directory: fs.path, images, archives });
}

/** What an engine saved are the images that it was given. */
async function assertLoads(archive: string, images: readonly Saved[]): Promise<void> {
  await using store = await storeAt(`${archive}.store`, 'overlay2');
  await store.images.load(archive);
  for (const { image, reference } of images) {
    const loaded = await store.images.get(reference);
    assert.equal(loaded.id, image.id, `${archive}: ${reference}`);
    assert.deepEqual(loaded.diffIds, image.diffIds, `${archive}: ${reference}`);
    assert.deepEqual(loaded.names, [`docker.io/library/${reference}`], archive);
  }
}

async function mounted(at: string, mount: (target: string) => Promise<unknown>): Promise<string[]> {
  mkdirSync(at, { recursive: true });
  await mount(at);
  try {
    return dumpTree(at);
  } finally {
    await tool('umount', [at]);
  }
}

/** The tree of a committed snapshot of containerd; `ctr`: the program and what comes before its command. */
function snapshot(ctr: readonly string[], diffIds: readonly Digest[], at: string): Promise<string[]> {
  const [program = '', ...args] = ctr;
  const chainId = chainIds(diffIds).at(-1) as string;
  return mounted(at, async (target) => {
    const line = await tool(program, [...args, 'snapshots', 'view', '--target', target, `view-${Date.now()}`, chainId]);
    await tool('sh', ['-c', line]);
  });
}

interface Docker {
  readonly name: string;
  readonly where: PeersPlace;
  readonly dockerd: string;
  /** Absent: its own choice, which is containerd's store. */
  readonly driver?: string;
}

const DOCKERS: readonly Docker[] = [
  { name: "the system's docker with overlay2", where: 'system', dockerd: 'dockerd', driver: 'overlay2' },
  { name: 'docker 28 with overlay2', where: 'directory', dockerd: 'dockerd-28', driver: 'overlay2' },
  { name: "docker 29 with containerd's store", where: 'directory', dockerd: 'dockerd' },
];

for (const { name, where, dockerd, driver } of DOCKERS) {
  test(`images.save() gives archives of loaded and committed images that ${name} loads to the same trees, and load() takes what it saves`, async (t) => {
    await withSaved(t, where, [dockerd, 'docker', 'containerd', 'ctr'], async ({ directory, images, archives }) => {
      const find = (program: string): string => peers.findIn(where, program) as string;
      for (const [form, archive] of Object.entries(archives)) {
        const home = join(directory, form[0] as string);
        mkdirSync(home);
        await using daemon = await startDockerd(home, {
          dockerd: find(dockerd),
          path: peers.pathIn(where),
          ...(driver === undefined ? {} : { driver }),
        });
        const docker = dockerOn(find('docker'), daemon.socket, home);
        await docker('load', '-q', '-i', archive);
        for (const { image, reference, tree } of images) {
          const [inspected] = JSON.parse(await docker('image', 'inspect', reference)) as [
            { RootFS: { Layers: string[] }; GraphDriver?: { Data: Record<string, string> | null } },
          ];
          assert.deepEqual(inspected.RootFS.Layers, image.diffIds, `${form}: ${reference}`);
          const at = join(home, 'seen');
          const containerd = join(home, 'docker-exec/containerd/containerd.sock');
          const { UpperDir, LowerDir } = inspected.GraphDriver?.Data ?? {};
          const lowers = ['-t', 'overlay', 'overlay', '-o', `ro,lowerdir=${UpperDir}:${LowerDir}`];
          const seen =
            driver === undefined
              ? await snapshot([find('ctr'), '-a', containerd, '-n', 'moby'], image.diffIds, at)
              : await mounted(at, (target) => tool('mount', [...lowers, target]));
          assert.deepEqual(seen, tree, `${form}: ${reference}`);
        }
        const saved = join(home, 'theirs.tar');
        await docker('save', '-o', saved, ...images.map(({ reference }) => reference));
        await assertLoads(saved, images);
      }
    });
  });
}

const CONTAINERDS: readonly (readonly [name: string, where: PeersPlace])[] = [
  ["the system's containerd", 'system'],
  ["today's containerd", 'directory'],
];

for (const [name, where] of CONTAINERDS) {
  test(`images.save() gives archives of loaded and committed images that ${name} imports to the same trees, and load() takes what it exports`, async (t) => {
    await withSaved(t, where, ['containerd', 'ctr'], async ({ directory, images, archives }) => {
      for (const [form, archive] of Object.entries(archives)) {
        const home = join(directory, form[0] as string);
        mkdirSync(home);
        const [containerd, program] = ['containerd', 'ctr'].map((one) => peers.findIn(where, one) as string) as [
          string,
          string,
        ];
        await using daemon = await startContainerd(home, { containerd, path: peers.pathIn(where) });
        const ctr = [program, '-a', daemon.socket];
        const call = (...args: readonly string[]): Promise<string> => tool(program, [...ctr.slice(1), ...args]);
        await call('images', 'import', archive);
        for (const { image, reference, tree } of images) {
          assert.deepEqual(await snapshot(ctr, image.diffIds, join(home, 'seen')), tree, `${form}: ${reference}`);
        }
        const exported = join(home, 'theirs.tar');
        // Without --local, ctr 2.4 often succeeds with an archive that is cut off (6 of 80 tries); 1.6 has no such flag.
        const local = where === 'directory' ? ['--local'] : [];
        const names = images.map(({ reference }) => `docker.io/library/${reference}`);
        await call('images', 'export', ...local, exported, ...names);
        await assertLoads(exported, images);
      }
    });
  });
}
