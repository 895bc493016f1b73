import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { createReadStream, openAsBlob, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { digestOf } from '../../src/base/digest.ts';
import type { Bytes, LoadedImage, Store } from '../../src/index.ts';
import { bulk, dockerTar, HERE, type ImageSpec, idOf, ociTar, writeLayout } from '../kit/images.ts';
import { directory, file, layer, whiteout } from '../kit/layer-builder.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { collect, fails } from '../transport/archives.ts';
import { eachStore } from './store-house.ts';

const base = layer(directory('etc/'), file('etc/motd', 'hello\n'), file('etc/gone', 'x'), directory('opt/'));
const top = layer(file('etc/added', 'added\n'), whiteout('etc/gone'));
const APP: ImageSpec = { layers: [base, top], names: ['docker.io/library/app:1'] };

async function treeOf(store: Store, image: string): Promise<string[]> {
  await using view = await store.layers.view(image);
  return dumpTree(view.path).slice(1); // the root's own line is no matter here
}

eachStore('load() takes an image from whatever holds it, always the same one', async (store, path) => {
  const oci = ociTar(APP);
  const at = (name: string): string => join(path, name);
  writeFileSync(at('app.tar'), oci);
  writeFileSync(at('app.tar.gz'), gzipSync(oci));
  execFileSync('mkfifo', [at('fifo')]);
  async function* pieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < bytes.length; i += 777) yield bytes.subarray(i, i + 777);
  }
  const sources: Readonly<Record<string, () => Bytes | Promise<Bytes>>> = {
    'a path': () => at('app.tar'),
    'a gzip file': () => at('app.tar.gz'),
    'a layout directory': () => writeLayout(at('layout'), APP),
    'a pipe by its path': () => {
      spawn('sh', ['-c', 'cat "$0" > "$1"', at('app.tar'), at('fifo')], { stdio: 'ignore' });
      return at('fifo');
    },
    'a gzip pipe': () => {
      spawn('sh', ['-c', 'cat "$0" > "$1"', at('app.tar.gz'), at('fifo')], { stdio: 'ignore' });
      return at('fifo');
    },
    'a stream of Node': () => createReadStream(at('app.tar')),
    'a web stream': async () => (await openAsBlob(at('app.tar'))).stream(),
    'an iterable': () => pieces(oci),
    'a zstd iterable': () => pieces(zstdCompressSync(oci)),
    'a docker archive': () => pieces(dockerTar(APP)),
    'gzip layers': () => pieces(ociTar({ ...APP, compress: 'gzip' })),
    'zstd layers': () => pieces(dockerTar({ ...APP, compress: 'zstd' })),
  };
  let tree: string[] | undefined;
  for (const [name, source] of Object.entries(sources)) {
    const [image, ...more] = await store.images.load(await source());
    assert.equal(image?.id, idOf(APP), name);
    assert.deepEqual(more, [], name);
    assert.deepEqual(image.names, APP.names, name);
    assert.deepEqual(
      image.diffIds,
      APP.layers.map((tar) => digestOf(tar)),
    );
    assert.equal(image.existed, false);
    tree ??= await treeOf(store, 'app:1');
    assert.deepEqual(await treeOf(store, 'app:1'), tree, name);
    await store.images.remove('app:1');
  }
  assert.deepEqual(
    tree?.map((line) => line.split(' ')[0]),
    ['"/etc"', '"/etc/added"', '"/etc/motd"', '"/opt"'],
  );
});

eachStore('load() of an image that is there is success, and a name that moves is said', async (store) => {
  const load = async (spec: ImageSpec): Promise<Awaited<ReturnType<Store['images']['load']>>[0]> => {
    const [image] = await store.images.load(streamOf(ociTar(spec)));
    assert.ok(image !== undefined);
    return image;
  };
  assert.deepEqual((await load(APP)).moved, []);
  const before = await store.layers.stored();
  const again = await load(APP);
  assert.deepEqual([again.existed, again.moved, again.names], [true, [], APP.names]);
  assert.deepEqual(await store.layers.stored(), before);
  const other: ImageSpec = { ...APP, author: 'other' };
  assert.deepEqual((await load(other)).moved, [{ name: APP.names?.[0], from: idOf(APP) }]);
  assert.deepEqual((await store.images.get(idOf(APP))).names, [], 'the old image stays, nameless');
  assert.equal((await store.images.get('app:1')).id, idOf(other));
  assert.equal((await store.layers.stored()).length, 2, 'they share their layers');
  assert.deepEqual((await load(APP)).moved, [{ name: APP.names?.[0], from: idOf(other) }]);
});

eachStore('load() takes several images of one archive, with layers in common', async (store) => {
  const specs: ImageSpec[] = [
    APP,
    { layers: [base], names: ['example.org/base:2', 'docker.io/library/base:latest'] },
    { layers: [base, top, bulk(1, 60, 10)], names: ['docker.io/library/three:1'] },
  ];
  for (const archive of [ociTar(...specs), dockerTar(...specs)]) {
    const loaded = await store.images.load(streamOf(archive));
    assert.deepEqual(loaded.map(({ id }) => id).sort(), specs.map(idOf).sort());
    for (const spec of specs) {
      const image = await store.images.get(idOf(spec));
      assert.deepEqual(image.names, [...(spec.names ?? [])].sort());
    }
    assert.deepEqual(await store.upkeep.counts(), { images: 3, layers: 3, writable: 0 });
    for (const { id } of loaded) await store.images.remove(id, { force: true });
  }
});

eachStore('load() makes no name when the platform that was asked for is absent', async (store) => {
  const far: ImageSpec = { layers: [top], architecture: 's390x', names: APP.names ?? [] };
  const both = ociTar(APP, far);
  await assert.rejects(store.images.load(streamOf(both), { platform: 'linux/riscv64' }), fails('not-found', /riscv64/));
  await assert.rejects(
    store.images.load(streamOf(dockerTar(far)), { platform: `linux/${HERE}` }),
    fails('not-found', /s390x/),
  );
  await assert.rejects(store.images.load(streamOf(both), { platform: 'no platform' }), fails('invalid-argument'));
  assert.deepEqual(await store.images.list(), []);
  const [chosen] = await store.images.load(streamOf(both), { platform: 'linux/s390x' });
  assert.deepEqual([chosen?.id, chosen?.platform], [idOf(far), 'linux/s390x']);
  const [mine] = await store.images.load(streamOf(both));
  assert.equal(mine?.id, idOf(APP));
});

eachStore('an image without layers, and layers of nothing, come in and go out', async (store) => {
  const none: ImageSpec = { layers: [], names: ['docker.io/library/none:1'] };
  const empty: ImageSpec = { layers: [Buffer.alloc(0), layer(), base, layer()], names: ['docker.io/library/empty:1'] };
  await store.images.load(streamOf(ociTar(none, empty)));
  assert.deepEqual([(await store.images.get('none:1')).diffIds, (await store.images.get('none:1')).sizeBytes], [[], 0]);
  await assert.rejects(store.layers.view('none:1'), fails('failed-precondition', /no layers/));
  await assert.rejects(collect(store.images.export('none:1')), fails('failed-precondition', /no layers/));
  for (const format of ['oci', 'docker'] as const) {
    const saved = await collect(store.images.save(['none:1', 'empty:1'], { format }));
    for (const name of ['none:1', 'empty:1']) await store.images.remove(name);
    assert.deepEqual(await store.images.list(), []);
    await store.images.load(streamOf(saved));
    assert.equal((await store.images.get('none:1')).id, idOf(none), format);
    assert.equal((await store.images.get('empty:1')).id, idOf(empty), format);
  }
  const work = await store.layers.create('none:1', { name: 'on-none' });
  {
    await using mounted = await work.mount();
    writeFileSync(join(mounted.path, 'file'), 'x');
  }
  const next = await work.commit('none:2');
  assert.deepEqual([next.diffIds.length, (await treeOf(store, 'none:2')).length], [1, 1]);
});

eachStore('a layer that an image has twice is two layers of one tar', async (store) => {
  const twice: ImageSpec = { layers: [base, top, base, top], names: ['docker.io/library/twice:1'] };
  await store.images.load(streamOf(ociTar(twice)));
  const layers = await store.layers.stored('twice:1');
  assert.deepEqual(
    layers.map(({ diffId }) => diffId),
    twice.layers.map((tar) => digestOf(tar)),
  );
  assert.equal(new Set(layers.map(({ chainId }) => chainId)).size, 4);
  const saved = await collect(store.images.save(['twice:1']));
  await store.images.remove('twice:1');
  assert.equal((await store.images.load(streamOf(saved)))[0]?.id, idOf(twice));
});

eachStore(
  'a layer that its files do not give back keeps its tar, says so, and goes out byte for byte',
  async (store) => {
    const doubled = layer(directory('d/'), file('d/f', 'first'), file('d/f', 'second'), file('g', 'x'.repeat(3000)));
    for (const compress of [undefined, 'gzip', 'zstd'] as const) {
      const spec: ImageSpec = {
        layers: [base, doubled],
        names: ['docker.io/library/kept:1'],
        ...(compress === undefined ? {} : { compress }),
      };
      await store.images.load(streamOf(ociTar(spec)));
      const layers = await store.layers.stored('kept:1');
      assert.deepEqual(
        layers.map(({ exact }) => exact.holds),
        [true, false],
      );
      assert.match(layers[1]?.exact.because ?? '', /"\/?d\/f"/);
      assert.deepEqual(await store.upkeep.check({ deep: true }), []);
      const saved = await collect(store.images.save(['kept:1']));
      assert.ok(saved.includes(doubled));
      await store.images.remove('kept:1');
    }
  },
);

eachStore('load() says how far it is, and at the end of each step', async (store, path) => {
  const archive = ociTar({ layers: [bulk(2, 40, 100_000)], names: ['docker.io/library/big:1'] });
  const seen: string[] = [];
  const onProgress = ({
    step,
    bytesDone,
    bytesTotal,
  }: {
    step: string;
    bytesDone: number;
    bytesTotal?: number;
  }): void => {
    assert.ok(bytesTotal === undefined || bytesDone <= bytesTotal, `${step}: ${bytesDone} of ${bytesTotal}`);
    if (seen.at(-1) !== step) seen.push(step);
  };
  writeFileSync(join(path, 'big.tar.gz'), gzipSync(archive, { level: 1 }));
  await store.images.load(join(path, 'big.tar.gz'), { onProgress });
  assert.deepEqual(seen, ['read', 'unpack', 'settle']);
});

function streamOf(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  return (async function* () {
    yield bytes;
  })();
}

eachStore('load() answers the manifest of its own archive, however the image came in before', async (store) => {
  const spec = { layers: [bulk(1, 3, 10)], names: ['docker.io/library/app:1'] };
  const load = async (archive: Buffer): Promise<LoadedImage | undefined> =>
    (await store.images.load([archive] as never))[0];
  const first = await load(dockerTar(spec));
  const second = await load(ociTar(spec));
  const third = await load(dockerTar(spec));
  assert.deepEqual([first?.manifestDigest, third?.manifestDigest], [undefined, undefined]);
  assert.match(second?.manifestDigest ?? '', /^sha256:/);
  assert.deepEqual([second?.id, third?.id, third?.existed], [first?.id, first?.id, true]);
});
