import assert from 'node:assert/strict';
import { test } from 'node:test';
import { doctor, type Mounted, openDriver, openStore, upperChanges, writeUpperdir } from '../../src/index.ts';
import { layerTar, openArchive, writeArchive, writeLayout } from '../../src/oci-entry.ts';
import { withStore } from '../kit/stores.ts';

/** A call with a wrong type, as a program without types makes it; and how the TypeError begins. */
type Wrong = readonly [call: () => unknown, says: string];

/** Waits for what a call answers: also for the first item of a stream that it should not have given. */
async function outcome(call: () => unknown): Promise<unknown> {
  try {
    const answer = await call();
    if (answer !== null && typeof answer === 'object' && Symbol.asyncIterator in answer) {
      for await (const _ of answer as AsyncIterable<unknown>) break;
    }
    return answer;
  } catch (error) {
    return error;
  }
}

async function allRefused(table: readonly Wrong[]): Promise<void> {
  for (const [call, says] of table) {
    const error = await outcome(call);
    assert.ok(error instanceof TypeError, `${says}: ${String(error)}`);
    assert.ok(error.message.startsWith(says), `${error.message} does not begin with ${says}`);
    assert.match(error.message, / must be [^\n]+, not [^\n]+$/);
  }
}

// biome-ignore lint/suspicious/noExplicitAny: what the compiler would refuse is the subject
const any = (value: unknown): any => value;

test('openStore(), openDriver(), doctor() and the differ: a wrong type is a TypeError that names it', async () => {
  await allRefused([
    [() => any(openStore)(), 'openStore(): options must be an object, not undefined'],
    [() => openStore(any({})), 'openStore(): options.root must be a path, not undefined'],
    [() => openStore({ root: any(5) }), 'openStore(): options.root'],
    [() => openStore({ root: any(['/tmp']) }), 'openStore(): options.root'],
    [() => openStore({ root: '/x', driver: any(1) }), 'openStore(): options.driver'],
    [() => openStore({ root: '/x', driverOptions: any('a=b') }), 'openStore(): options.driverOptions must be an array'],
    [() => openStore({ root: '/x', driverOptions: any(['a=b', 2]) }), 'openStore(): options.driverOptions[1]'],
    [() => openStore({ root: '/x', threads: any('2') }), 'openStore(): options.threads'],
    [() => openStore({ root: '/x', create: any('no') }), 'openStore(): options.create'],
    [() => openStore({ root: '/x', signal: any({}) }), 'openStore(): options.signal must be an AbortSignal'],
    [() => openStore({ root: '/x', log: any({ warn() {} }) }), 'openStore(): options.log.debug'],
    [() => openDriver(any({ root: null })), 'openDriver(): options.root must be a path, not null'],
    [() => openDriver({ root: '/x', options: any({}) }), 'openDriver(): options.options'],
    [() => doctor(any(undefined)), 'doctor(): root'],
    [() => upperChanges(any({}), []), 'upperChanges(): lower must be an array'],
    [() => writeUpperdir([], any([{ type: 'bind', source: 5 }])), 'writeUpperdir(): upper[0].source'],
    [() => upperChanges([], [], { rendering: any('short') }), 'upperChanges(): options.rendering'],
  ]);
});

test('layerstore/oci: a wrong type is a TypeError that names it', async () => {
  await allRefused([
    [() => openArchive(any(Buffer.from('x'))), 'openArchive(): source must be a path'],
    [() => openArchive('x', any({ signal: 1 })), 'openArchive(): options.signal'],
    [() => layerTar(any({})), 'layerTar(): layer.blob'],
    [() => writeArchive(any('x')), 'writeArchive(): images must be an array'],
    [() => writeArchive(any([{ names: 'x' }])), 'writeArchive(): images[0].names'],
    [() => writeArchive([], any({ format: 'tar' })), 'writeArchive(): options.format must be one of "oci", "docker"'],
    [() => writeLayout([], any(5)), 'writeLayout(): directory'],
  ]);
});

test('a store and its layers: a wrong type is a TypeError that names it, and nothing is done', async (t) => {
  await withStore(t, 'overlay2', async (store) => {
    const { images, layers, upkeep } = store;
    const layer = await layers.create(undefined, { name: 'mine' });
    await allRefused([
      [() => images.load(any(undefined)), 'images.load(): source must be a path'],
      [() => images.load(any(Buffer.from('tar'))), 'images.load(): source'],
      [() => images.load('x', any('linux/amd64')), 'images.load(): options must be an object'],
      [() => images.load('x', { platform: any({}) }), 'images.load(): options.platform'],
      [() => images.load('x', { limits: { ratioMax: any('9') } }), 'images.load(): options.limits.ratioMax'],
      [() => images.load('x', { onProgress: any(true) }), 'images.load(): options.onProgress must be a function'],
      [() => images.save(any('app:1')), 'images.save(): images must be an array'],
      [() => images.save([any(1)]), 'images.save(): images[0] must be an image or its name, not 1'],
      [() => images.save([], { format: any('zip') }), 'images.save(): options.format'],
      [() => images.saveTo([], any('file')), 'images.saveTo(): fd'],
      [() => images.saveDirectory([], any(undefined)), 'images.saveDirectory(): directory'],
      [() => images.get(any(null)), 'images.get(): name'],
      [() => images.tag('x', any(undefined)), 'images.tag(): reference'],
      [() => images.tag(any({}), 'x'), 'images.tag(): image'],
      [() => images.remove(any(['x'])), 'images.remove(): name must be a string, not an array'],
      [() => images.remove('x', { force: any(1) }), 'images.remove(): options.force must be true or false'],
      [() => images.removeAll(any('x')), 'images.removeAll(): names'],
      [() => images.history(any(7)), 'images.history(): image'],
      [() => images.export(any(layer.sizeBytes)), 'images.export(): name must be a string, not a function'],
      [() => layers.create(any(3)), 'layers.create(): base'],
      [() => layers.create(undefined, { name: any(3) }), 'layers.create(): options.name'],
      [() => layers.create(undefined, { settings: any('size=1') }), 'layers.create(): options.settings'],
      [() => layers.get(any(layer)), 'layers.get(): name'],
      [() => layers.remove(any(undefined)), 'layers.remove(): name'],
      [() => layers.stored(any(1)), 'layers.stored(): image'],
      [() => layers.view(any(undefined)), 'layers.view(): image'],
      [() => layers.releaseAt(any({})), 'layers.releaseAt(): path'],
      [() => layer.mount(any(true)), 'layer.mount(): options'],
      [() => layer.mount({ signal: any('soon') }), 'layer.mount(): options.signal'],
      [() => layer.changes({ rendering: any('short') }), 'layer.changes(): options.rendering'],
      [() => layer.diff({ xattrs: any(false) }), 'layer.diff(): options.xattrs'],
      [() => layer.commit(any(5)), 'layer.commit(): reference'],
      [() => layer.commit('x:1', { changes: any('CMD x') }), 'layer.commit(): options.changes'],
      [() => layer.remove({ force: any('yes') }), 'layer.remove(): options.force'],
      [() => upkeep.gc({ dryRun: any(0) }), 'upkeep.gc(): options.dryRun'],
      [() => upkeep.check(any(1)), 'upkeep.check(): options'],
    ]);
    assert.deepEqual(await images.list(), []);
    assert.deepEqual(
      (await layers.list()).map(({ name }) => name),
      ['mine'],
    );
    // A promise rejects, as for any other failure; it is not thrown at who has no `await`.
    const rejected: Promise<Mounted> = layer.mount(any(1));
    await assert.rejects(rejected, TypeError);
    // What is absent is left out, and undefined is absent.
    await layer.mount(any({ hold: undefined })).then((mounted) => mounted[Symbol.asyncDispose]());
  });
});

test('a bare driver: a wrong type is a TypeError that names it', async (t) => {
  await withStore(t, 'overlay2', async (_, path) => {
    await using driver = await openDriver({ root: `${path}/bare`, driver: 'vfs', run: `${path}/run` });
    await allRefused([
      [() => driver.create(any(undefined), { writable: true }), 'driver.create(): id'],
      [() => driver.create(any('x'), any(undefined)), 'driver.create(): options must be an object'],
      [() => driver.create(any('x'), any({})), 'driver.create(): options.writable'],
      [() => driver.remove(any(5)), 'driver.remove(): id'],
      [() => driver.has(any({})), 'driver.has(): id'],
      [() => driver.files(any(null)), 'driver.files(): id'],
      [() => driver.seal(any('x')), 'driver.seal(): ids must be an array'],
      [() => driver.mount(any('x'), { readonly: any('yes') }), 'driver.mount(): options.readonly'],
      [() => driver.apply(any('x'), any('file.tar')), 'driver.apply(): tar must be an async iterable'],
      [() => driver.diff(any('x'), any(1)), 'driver.diff(): parent'],
      [() => driver.changes(any('x'), undefined, { rendering: any('short') }), 'driver.changes(): options.rendering'],
      [() => driver.release(any('x'), any(undefined)), 'driver.release(): holdName'],
    ]);
    assert.deepEqual(await driver.list(), []);
  });
});
