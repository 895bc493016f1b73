import assert from 'node:assert/strict';
import { StorageError } from '../../src/index.ts';
import { Database } from '../../src/store/database.ts';
import { bulk, type ImageSpec, ociTar } from '../kit/images.ts';
import { rootDump } from '../kit/root-dump.ts';
import { collect, fails } from '../transport/archives.ts';
import { eachStore } from './store-house.ts';

const BIG: ImageSpec = {
  layers: [bulk(3, 24, 1 << 20), bulk(4, 20, 10_000), bulk(5, 24, 1 << 20)],
  names: ['docker.io/library/big:1'],
};

eachStore('save() is whole though its image is removed meanwhile, whose layers go after it', async (store) => {
  await store.images.load(new Blob([ociTar(BIG)]).stream());
  for (const options of [{}, { compress: 'gzip' }] as const) {
    const whole = await collect(store.images.save(['big:1'], options));
    const saving = store.images.save(['big:1'], options)[Symbol.asyncIterator]();
    const first = (await saving.next()).value as Uint8Array;
    await store.images.remove('big:1');
    await assert.rejects(store.images.get('big:1'), fails('not-found'));
    assert.equal((await store.layers.stored()).length, 3);
    const rest = await collect({ [Symbol.asyncIterator]: () => saving });
    assert.ok(Buffer.concat([first, rest]).equals(whole));
    assert.deepEqual(await store.layers.stored(), []);
    await store.upkeep.sweep({ wait: true });
    assert.deepEqual(rootDump(store.root, { aside: true }), []);
    await store.images.load(new Blob([ociTar(BIG)]).stream());
  }
  const left = store.images.save(['big:1'])[Symbol.asyncIterator]();
  await left.next();
  await store.images.remove('big:1');
  await left.return?.();
  assert.deepEqual(await store.layers.stored(), [], 'also of one that is given up');
});

eachStore(
  'save() that could not keep its layers says that one was removed meanwhile, or is whole',
  async (store, _, t) => {
    await store.images.load(new Blob([ociTar(BIG)]).stream());
    const full = new StorageError('resource-exhausted', 'full');
    const pin = t.mock.method(Database.prototype, 'pin', () => Promise.reject(full));
    const saving = store.images.save(['big:1'])[Symbol.asyncIterator]();
    while (((await saving.next()).value as Uint8Array).length < 100_000) {} // in the middle of the layer
    assert.equal(pin.mock.callCount(), 1);
    pin.mock.restore();
    await store.images.remove('big:1');
    assert.deepEqual(await store.layers.stored(), []);
    // Trees are only aside: the rest may be read before it is deleted, and is verified; or it says so.
    const outcome = await (async () => {
      while ((await saving.next()).done !== true) {}
      return undefined;
    })().catch((error: unknown) => error);
    if (outcome !== undefined) assert.ok(fails('not-found', /removed meanwhile/)(outcome), String(outcome));
  },
);
