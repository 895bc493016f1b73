import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { test } from 'node:test';
import { fromText, toText } from '../../src/base/bytes.ts';
import { parseLayerId } from '../../src/driver/ids.ts';
import { type LayerId, openDriver, type StorageDriver } from '../../src/index.ts';
import { dump } from '../contract/driver-house.ts';
import { filesystem } from '../kit/filesystems.ts';
import { needPeers, peersIn, startDockerd } from '../kit/peers.ts';
import { need } from '../kit/require.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { makeStrangeImage } from './strange-image.ts';
import { dockerOn, storeAt, tool, viewOf } from './tool.ts';

const peers = peersIn();
const id = (name: string): LayerId => parseLayerId(fromText(name));

/** `GraphDriver.Data` of `docker inspect`. */
interface Places {
  readonly UpperDir: string;
  readonly LowerDir: string;
}

test("overlay2 opens and mounts a home that the system's Docker wrote, and Docker goes on in it with what was made here (O18)", async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4', 'tar') || !needPeers(t, peers, 'system', 'dockerd', 'docker')) return;
  await using fs = await filesystem('ext4', 1024);
  const at = (name: string): string => join(fs.path, name);
  const image = await makeStrangeImage(fs.path);
  const archive = at('strange.tar');
  await tool('tar', ['-C', image.layout, '-cf', archive, '.']);
  mkdirSync(at('d'));
  const daemon = (): ReturnType<typeof startDockerd> =>
    startDockerd(at('d'), {
      dockerd: peers.findIn('system', 'dockerd') as string,
      path: peers.pathIn('system'),
      driver: 'overlay2',
    });
  const docker = dockerOn(peers.findIn('system', 'docker') as string, at('d/docker.sock'), at('d'));
  const placesOf = async (...what: string[]): Promise<Places> =>
    JSON.parse(await docker(...what, '-f', '{{json .GraphDriver.Data}}')) as Places;
  const layerOf = (diff: string): LayerId => id(basename(dirname(diff)));
  const create = async (): Promise<string> =>
    (await docker('create', '--network', 'none', image.reference, '/x')).trim();

  writeFileSync(at('added'), 'by docker');
  let container: string;
  let top: LayerId;
  let own: LayerId;
  let init: LayerId;
  let dockersDiff: string[];
  {
    await using _ = await daemon();
    await docker('load', '-q', '-i', archive);
    container = await create();
    await docker('cp', at('added'), `${container}:/etc/added`);
    dockersDiff = (await docker('diff', container)).trimEnd().split('\n').sort();
    top = layerOf((await placesOf('image', 'inspect', image.reference)).UpperDir);
    const places = await placesOf('inspect', container);
    own = layerOf(places.UpperDir);
    init = layerOf(places.LowerDir.split(':')[0] as string);
  }
  const home = fromText(at('d/docker/overlay2'));
  const was = dump(home);
  const ours = (): Promise<StorageDriver> => openDriver({ root: at('d/docker'), driver: 'overlay2', run: at('run') });
  {
    await using driver = await ours();
    const there = readdirSync(at('d/docker/overlay2')).filter((name) => name !== 'l' && name !== 'backingFsBlockDev');
    assert.deepEqual((await driver.list()).sort(), there.sort());
    assert.ok(there.length >= 5, 'three layers of the image, two of the container');
    assert.deepEqual([await driver.parent(own), await driver.parent(init)], [init, top]);
    const listed = (await Array.fromAsync(driver.changes(own, init))).map(
      ({ kind, path }) => `${{ add: 'A', modify: 'C', delete: 'D', rename: 'R' }[kind]} ${path}`,
    );
    assert.deepEqual(listed.sort(), dockersDiff);
    assert.deepEqual(dump(home), was, 'reading leaves it as it was');
    {
      await using store = await storeAt(at('store'), 'overlay2');
      await store.images.load(image.layout);
      await using mounted = await driver.mount(top, { readonly: true });
      assert.deepEqual(dumpTree(toText(mounted.path)), await viewOf(store, image.reference));
    }
    // Docker's own layer is written to, and one more is made on its image.
    await driver.create(id('ours'), { parent: top, writable: true });
    for (const layer of [own, id('ours')]) {
      await using mounted = await driver.mount(layer);
      writeFileSync(join(toText(mounted.path), 'etc/written'), 'by us');
    }
    await driver.seal([id('ours')]);
  }
  let second: string;
  {
    await using _ = await daemon();
    assert.deepEqual((await docker('diff', container)).trimEnd().split('\n').sort(), [
      ...[...dockersDiff, 'A /etc/written'].sort(),
    ]);
    await docker('cp', `${container}:/etc/written`, at('got'));
    assert.equal(readFileSync(at('got'), 'utf8'), 'by us');
    await docker('cp', at('added'), `${container}:/etc/more`);
    await docker('commit', container, 'changed:1');
    await docker('rm', container);
    second = await create();
    own = layerOf((await placesOf('inspect', second)).UpperDir);
  }
  {
    await using driver = await ours();
    await driver.remove(id('ours'));
    // The layer of a container, made here in place of Docker's.
    const parent = await driver.parent(own);
    assert.ok(parent !== undefined);
    await driver.remove(own);
    await driver.create(own, { parent, writable: true });
    await using mounted = await driver.mount(own);
    writeFileSync(join(toText(mounted.path), 'etc/written'), 'by us again');
  }
  {
    await using _ = await daemon();
    await docker('cp', `${second}:/etc/written`, at('got'));
    assert.equal(readFileSync(at('got'), 'utf8'), 'by us again');
    await docker('cp', at('added'), `${second}:/etc/added`);
    await docker('rm', second);
    await docker('rmi', 'changed:1', image.reference);
  }
  assert.deepEqual(readdirSync(at('d/docker/overlay2')), ['l']);
  assert.deepEqual(readdirSync(at('d/docker/overlay2/l')), []);
});
