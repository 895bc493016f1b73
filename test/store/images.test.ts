import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { digestOf, hexOf } from '../../src/base/digest.ts';
import type { Store } from '../../src/index.ts';
import { dockerTar, type ImageSpec, idOf, ociTar } from '../kit/images.ts';
import { directory, file, layer } from '../kit/layer-builder.ts';
import { rootDump } from '../kit/root-dump.ts';
import { collect, fails } from '../transport/archives.ts';
import { eachStore } from './store-house.ts';

const base = layer(directory('bin/'), file('bin/sh', 'shell'));
const APP: ImageSpec = {
  layers: [base, layer(file('app', 'one'))],
  names: ['docker.io/library/app:1'],
  history: [
    { created: '2024-01-01T00:00:00Z', created_by: 'base' },
    { created_by: 'ENV a=b', empty_layer: true },
    { created_by: 'app', comment: 'mine' },
  ],
};
const OTHER: ImageSpec = { layers: [base, layer(file('other', 'two'))], names: ['example.org/team/other:2'] };

async function load(store: Store, ...specs: readonly ImageSpec[]): Promise<void> {
  await store.images.load(
    (async function* () {
      yield ociTar(...specs);
    })(),
  );
}

eachStore(
  'an image that is loaded, tagged, saved and loaded again stays the same in all its digests',
  async (store) => {
    await load(store, APP, OTHER);
    assert.deepEqual((await store.images.list()).map(({ id }) => id).sort(), [idOf(APP), idOf(OTHER)].sort());
    const image = await store.images.get('app:1');
    assert.equal(digestOf(image.config), image.id);
    assert.deepEqual(await store.images.tag('app:1', 'localhost:5000/app:again'), {});
    assert.deepEqual(await store.images.tag(image, 'example.org/team/other:2'), { movedFrom: idOf(OTHER) });
    const before = await store.images.get('app:1');
    assert.deepEqual(before.names, ['docker.io/library/app:1', 'example.org/team/other:2', 'localhost:5000/app:again']);
    assert.deepEqual(
      (await store.images.history('app:1')).map(({ createdBy, emptyLayer, diffId }) => [createdBy, emptyLayer, diffId]),
      [
        ['app', false, digestOf(APP.layers[1] as Buffer)],
        ['ENV a=b', true, undefined],
        ['base', false, digestOf(base)],
      ],
    );
    for (const format of ['oci', 'docker'] as const) {
      const saved = await collect(store.images.save([before, idOf(OTHER)], { format }));
      assert.deepEqual(
        await collect(store.images.save([before, idOf(OTHER)], { format })),
        saved,
        'equal bytes each time',
      );
      for (const id of [idOf(APP), idOf(OTHER)]) await store.images.remove(id, { force: true });
      assert.deepEqual(rootDump(store.root), []);
      const loaded = await store.images.load(new Blob([saved as Buffer<ArrayBuffer>]).stream());
      assert.deepEqual(loaded.map(({ id }) => id).sort(), [idOf(APP), idOf(OTHER)].sort(), format);
      const { names, diffIds, chainId, config } = await store.images.get(idOf(APP));
      assert.deepEqual(
        { names, diffIds, chainId },
        { names: before.names, diffIds: before.diffIds, chainId: before.chainId },
      );
      assert.deepEqual(Buffer.from(config), Buffer.from(before.config));
    }
  },
);

eachStore('images are found by name and by the beginning of their ids', async (store) => {
  const many = Array.from({ length: 20 }, (_, i): ImageSpec => ({ layers: [base], author: `number ${i}` }));
  await load(store, APP, ...many);
  const id = idOf(APP);
  for (const name of ['app:1', 'docker.io/library/app:1', id, hexOf(id), id.slice(0, 30), hexOf(id).slice(0, 12)]) {
    assert.equal((await store.images.get(name)).id, id, name);
  }
  // 21 ids and 16 digits: one digit at least begins two.
  const digits = [...many, APP].map((spec) => hexOf(idOf(spec)).charAt(0));
  const twice = digits.find((digit, i) => digits.indexOf(digit) !== i) as string;
  await assert.rejects(store.images.get(twice), fails('invalid-argument', /give more/));
  for (const absent of ['nobody:1', `sha256:${'0'.repeat(64)}`, 'Not A Name', '']) {
    await assert.rejects(store.images.get(absent), fails('not-found'), absent);
  }
  await store.images.tag('app:1', `${twice}:latest`);
  assert.equal((await store.images.get(twice)).id, id, 'a full name wins over the beginning of an id');
});

eachStore('remove() takes a name away, and the image and its layers with the last one', async (store) => {
  await load(store, APP, OTHER);
  await store.images.tag('app:1', 'app:2');
  assert.deepEqual(await store.images.remove('app:2'), { untagged: ['docker.io/library/app:2'] });
  await store.images.tag('app:1', 'app:2');
  await assert.rejects(store.images.remove(idOf(APP)), fails('busy', /2 names .*app:1.*app:2/));
  assert.equal((await store.images.get('app:1')).names.length, 2, 'refused, it takes no name away');
  assert.deepEqual(await store.images.remove(idOf(APP), { force: true }), {
    untagged: ['docker.io/library/app:1', 'docker.io/library/app:2'],
    removed: idOf(APP),
  });
  await assert.rejects(store.images.remove('app:1'), fails('not-found'));
  const [kept, ...more] = await store.layers.stored();
  assert.deepEqual([kept?.diffId, more.length], [digestOf(base), 1], 'what the other image needs stays');
  assert.deepEqual(await store.images.remove(idOf(OTHER).slice(0, 20)), {
    untagged: OTHER.names,
    removed: idOf(OTHER),
  });
  assert.deepEqual(await store.layers.stored(), []);
  assert.deepEqual(rootDump(store.root), []);
});

eachStore('an image with writable layers on it, or whose view is mounted, is busy', async (store) => {
  await load(store, APP, OTHER);
  await store.images.tag('app:1', 'app:2');
  const work = await store.layers.create('app:1', { name: 'mine' });
  await store.images.remove('app:2');
  for (const name of ['app:1', idOf(APP)]) {
    for (const force of [false, true]) {
      await assert.rejects(store.images.remove(name, { force }), fails('busy', /writable layers .*mine/));
    }
  }
  await assert.rejects(store.images.removeAll(['other', 'example.org/team/other:2', 'app:1']), fails('not-found'));
  await assert.rejects(store.images.removeAll(['example.org/team/other:2', 'app:1']), fails('busy'));
  assert.equal((await store.images.list()).length, 2, 'refused for one, nothing is taken away');
  await work.remove();
  const before = rootDump(store.root);
  {
    await using view = await store.layers.view('app:1');
    await assert.rejects(store.images.remove('app:1'), fails('busy', /view .*mounted/));
    await store.upkeep.gc();
    assert.equal(readFileSync(join(view.path, 'bin/sh'), 'utf8'), 'shell');
    await store.images.tag('app:1', 'app:2');
    assert.deepEqual(await store.images.remove('app:2'), { untagged: ['docker.io/library/app:2'] });
  }
  assert.deepEqual(rootDump(store.root), before);
  const done = await store.images.removeAll(['app:1', 'example.org/team/other:2']);
  assert.deepEqual(
    done.map(({ removed }) => removed),
    [idOf(APP), idOf(OTHER)],
  );
  assert.deepEqual(rootDump(store.root), []);
});

eachStore('save() of what is not there says so, and of a damaged layer that it is corrupt', async (store) => {
  await assert.rejects(collect(store.images.save(['big:1'])), fails('not-found'));
  await assert.rejects(collect(store.images.save([])), fails('invalid-argument'));

  await load(store, APP);
  const tree = rootDump(store.root).find((path) => path.endsWith('/app')) as string;
  writeFileSync(join(store.root, tree), 'two');
  await assert.rejects(collect(store.images.save(['app:1'])), fails('corrupt'));
  const faults = await store.upkeep.check({ deep: true });
  assert.deepEqual(
    faults.map(({ what }) => /its modification time|its files were changed/.exec(what)?.[0]),
    ['its modification time', 'its files were changed'],
  );
  assert.deepEqual(await store.upkeep.check(), [], 'only a deep look finds it');
  writeFileSync(join(store.root, tree), 'one');
  const record = readdirSync(join(store.root, 'records'))[0] as string;
  rmSync(join(store.root, 'records', record));
  await assert.rejects(collect(store.images.save(['app:1'])), fails('corrupt', /record is gone/));
  assert.equal((await store.upkeep.check()).length, 1);
  await store.images.remove('app:1');
});

eachStore('saveDirectory() fills an empty or absent directory and leaves any other as it is', async (store, path) => {
  await load(store, APP);
  const target = join(path, 'new/layout');
  await store.images.saveDirectory(['app:1'], target);
  await store.images.remove('app:1');
  assert.equal((await store.images.load(target))[0]?.id, idOf(APP));
  await assert.rejects(store.images.saveDirectory(['app:1'], target), fails('already-exists'));
  assert.ok(existsSync(join(target, 'index.json')));
  mkdirSync(join(path, 'empty'));
  const stop = AbortSignal.abort('enough');
  for (const name of ['empty', 'absent/deep']) {
    await assert.rejects(
      store.images.saveDirectory(['app:1'], join(path, name), { signal: stop }),
      (error) => error === 'enough',
    );
  }
  await assert.rejects(store.images.saveDirectory(['nobody:1'], join(path, 'absent/deep')), fails('not-found'));
  assert.deepEqual(readdirSync(path).sort(), ['empty', 'new']);
  assert.deepEqual(readdirSync(join(path, 'empty')), []);
  await assert.rejects(store.images.saveDirectory(['app:1'], join(target, 'index.json')), fails('failed-precondition'));
});

eachStore('save() takes docker archives and layouts apart and together as it wrote them', async (store) => {
  await store.images.load(
    (async function* () {
      yield dockerTar(APP);
      // An archive may be followed by anything.
      yield Buffer.alloc(4096);
    })(),
  );
  const saved = await collect(store.images.save(['app:1'], { epochSeconds: 86_400 }));
  assert.ok(saved.includes(Buffer.from('manifest.json')), 'Docker before 25 reads it too');
  for (const tar of APP.layers) assert.ok(saved.includes(tar), 'the very bytes that came in');
});
