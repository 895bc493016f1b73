import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { toText } from '../../src/base/bytes.ts';
import { digestOf } from '../../src/base/digest.ts';
import { type Change, isStorageError, openStore, type Store, type WritableLayer } from '../../src/index.ts';
import { parseConfig } from '../../src/oci/config.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, type ImageSpec, idOf, ociTar } from '../kit/images.ts';
import { directory, file, layer } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import { DRIVERS } from '../kit/stores.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { collect, fails } from '../transport/archives.ts';
import { eachStore } from './store-house.ts';

const APP: ImageSpec = {
  layers: [
    layer(directory('etc/'), file('etc/motd', 'hello\n'), file('etc/gone', 'x')),
    layer(directory('opt/'), file('opt/tool', 'tool', { mode: 0o755 })),
  ],
  names: ['docker.io/library/app:1'],
};

async function loadApp(store: Store): Promise<void> {
  await store.images.load(
    (async function* () {
      yield ociTar(APP);
    })(),
  );
}

async function edit(work: WritableLayer, change: (path: string) => void): Promise<void> {
  await using mounted = await work.mount();
  change(toText(mounted.path));
}

async function changesOf(work: WritableLayer): Promise<string[]> {
  const all: Change[] = [];
  for await (const one of work.changes({ rendering: 'core' })) all.push(one);
  return all.map(({ kind, path }) => `${kind} ${path}`);
}

eachStore('create() makes a writable layer on a reference, an image, a chain id or nothing', async (store) => {
  await loadApp(store);
  const image = await store.images.get('app:1');
  const [below] = await store.layers.stored(image);
  const bases = { reference: 'app:1', image, id: image.id, chain: below?.chainId as string, nothing: undefined };
  for (const [name, base] of Object.entries(bases)) {
    const work = await store.layers.create(base, { name });
    assert.equal(work.image, name === 'chain' || name === 'nothing' ? undefined : image.id);
    await edit(work, (path) => {
      assert.equal(existsSync(join(path, 'etc/motd')), name !== 'nothing', name);
      assert.equal(existsSync(join(path, 'opt/tool')), name !== 'nothing' && name !== 'chain', name);
      writeFileSync(join(path, 'new'), name);
    });
    assert.deepEqual(await changesOf(work), ['add /new'], name);
    assert.equal(await work.sizeBytes(), name.length);
  }
  assert.deepEqual(
    (await store.layers.list()).map(({ name }) => name),
    Object.keys(bases).sort(),
  );
  const [first] = await store.layers.list();
  const told = JSON.parse(JSON.stringify(first)) as { readonly createdAt: string };
  assert.equal(told.createdAt, first?.createdAt);
  assert.ok(Math.abs(Date.now() - Date.parse(told.createdAt)) < 3_600_000);
  for (const text of [first?.name, first?.id, first?.id.slice(0, 12)]) {
    assert.equal((await store.layers.get(text as string)).id, first?.id);
  }
  const before = rootDump(store.root);
  await assert.rejects(store.layers.create('app:1', { name: 'chain' }), fails('already-exists', /chain/));
  await assert.rejects(store.layers.create('nobody:1'), fails('not-found'));
  await assert.rejects(store.layers.create(`sha256:${'0'.repeat(64)}`), fails('not-found'));
  await assert.rejects(store.layers.create('app:1', { settings: { color: 'red' } }), fails('invalid-argument'));
  await assert.rejects(store.layers.create('app:1', { signal: AbortSignal.abort(5) }), (error) => error === 5);
  for (const absent of ['nobody', '', 'ffffffffffff'])
    await assert.rejects(store.layers.get(absent), fails('not-found'));
  assert.deepEqual(rootDump(store.root), before, 'what is refused leaves nothing');
});

eachStore('commit() makes an image of what the layer shows, and commits of commits', async (store) => {
  await loadApp(store);
  const trees: string[][] = [];
  let reference = 'app:1';
  for (let i = 1; i <= 4; i++) {
    const work = await store.layers.create(reference, { name: `step-${i}` });
    await edit(work, (path) => {
      writeFileSync(join(path, `etc/step-${i}`), `${i}`);
      chmodSync(join(path, 'etc/motd'), 0o600 + i);
      if (i === 2) rmSync(join(path, 'etc/gone'));
      if (i === 3) rmSync(join(path, 'opt'), { recursive: true });
      if (i === 4) mkdirSync(join(path, 'opt'));
    });
    reference = `chain:${i}`;
    const options = {
      createdAt: '2024-05-06T07:08:09Z',
      message: `step ${i}`,
      author: 'me',
      changes: [`ENV STEP=${i}`],
    };
    const image = await work.commit(reference, options);
    assert.deepEqual([image.existed, image.moved, image.names], [false, [], [`docker.io/library/chain:${i}`]]);
    assert.equal(image.diffIds.length, 2 + i);
    const again = await work.commit(undefined, options);
    assert.deepEqual([again.id, again.existed], [image.id, true], 'the same tree, the same image');
    await using view = await store.layers.view(reference);
    await using mounted = await work.mount();
    assert.deepEqual(dumpTree(view.path).slice(1), dumpTree(toText(mounted.path)).slice(1));
    trees.push(dumpTree(view.path).slice(1));
  }
  const last = await store.images.get('chain:4');
  const parsed = parseConfig(last.config, 'the config');
  assert.equal(parsed.history.filter(({ emptyLayer }) => !emptyLayer).length, 6);
  assert.deepEqual(JSON.parse(Buffer.from(last.config).toString()).config, {
    Env: ['PATH=/bin', 'STEP=4'],
    Cmd: ['/bin/sh'],
  });
  assert.equal((await store.images.history(last))[0]?.comment, 'step 4');
  const saved = await collect(store.images.save(['chain:4']));
  for (const one of await store.layers.list()) await one.remove();
  for (const image of await store.images.list()) await store.images.remove(image.id, { force: true });
  assert.deepEqual(rootDump(store.root), []);
  await store.images.load(new Blob([saved as Buffer<ArrayBuffer>]).stream());
  await using view = await store.layers.view('chain:4');
  assert.deepEqual(dumpTree(view.path).slice(1), trees[3]);
});

eachStore('commit() refuses a bad name or change before it packs anything, and leaves nothing', async (store) => {
  await loadApp(store);
  const work = await store.layers.create('app:1', { name: 'work' });
  const before = rootDump(store.root);
  await assert.rejects(work.commit('Bad Name'), fails('invalid-argument'));
  await assert.rejects(work.commit('x:1', { changes: ['FROM scratch'] }), fails('invalid-argument', /FROM/));
  await assert.rejects(work.commit('x:1', { signal: AbortSignal.abort(7) }), (error) => error === 7);
  assert.deepEqual(rootDump(store.root), before);
  const image = await work.commit('app:1', { changes: ['CMD ["a=b", "c d"]'] });
  assert.deepEqual(image.moved, [{ name: APP.names?.[0], from: idOf(APP) }]);
  assert.deepEqual(JSON.parse(Buffer.from(image.config).toString()).config.Cmd, ['a=b', 'c d']);
  await work.remove();
  await assert.rejects(work.commit('x:1'), fails('not-found'));
  await assert.rejects(work.mount(), fails('not-found'));
  await assert.rejects(work.remove(), fails('not-found'));
});

eachStore('commit() of a layer on nothing, and of one without changes', async (store) => {
  const work = await store.layers.create(undefined, { name: 'scratch' });
  const empty = await work.commit('empty:1');
  assert.equal(empty.diffIds.length, 1);
  await edit(work, (path) => writeFileSync(join(path, 'only'), 'x'));
  const one = await work.commit('one:1');
  const on = await store.layers.create('one:1', { name: 'on' });
  assert.deepEqual(await changesOf(on), []);
  const two = await on.commit('two:1');
  assert.deepEqual(two.diffIds.slice(0, 1), one.diffIds);
  await using view = await store.layers.view('two:1');
  assert.deepEqual(readdirSync(view.path), ['only']);
});

eachStore('diff() and export() are tars that make the same trees again', async (store) => {
  await loadApp(store);
  const work = await store.layers.create('app:1', { name: 'work' });
  await edit(work, (path) => {
    writeFileSync(join(path, 'etc/new'), 'new');
    rmSync(join(path, 'etc/gone'));
  });
  const [diff, again] = [await collect(work.diff()), await collect(work.diff())];
  assert.deepEqual(diff, again, 'the same tree, the same bytes');
  const flat = await collect(store.images.export('work'));
  const rebuilt: ImageSpec = { layers: [...APP.layers, diff], names: ['docker.io/library/diffed:1'] };
  const flattened: ImageSpec = { layers: [flat], names: ['docker.io/library/flat:1'] };
  await store.images.load(new Blob([ociTar(rebuilt, flattened) as Buffer<ArrayBuffer>]).stream());
  await using mounted = await work.mount();
  const tree = dumpTree(toText(mounted.path)).slice(1);
  for (const name of ['diffed:1', 'flat:1']) {
    await using view = await store.layers.view(name);
    assert.deepEqual(dumpTree(view.path).slice(1), tree, name);
  }
  assert.equal(digestOf(await collect(store.images.export('flat:1'))), digestOf(flat));
});

eachStore(
  'diff(), export() and save() that lend their pieces give the same bytes, also to who is slow or stops',
  async (store) => {
    const image: ImageSpec = { layers: [bulk(7, 40, 300_000)], names: ['docker.io/library/large:1'] };
    await store.images.load(new Blob([ociTar(image) as Buffer<ArrayBuffer>]).stream());
    const work = await store.layers.create('large:1', { name: 'work' });
    await edit(work, (path) => writeFileSync(join(path, 'new'), Buffer.alloc(20_000_000, 'new ')));
    const calls = [
      (lend: boolean) => work.diff({ lend }),
      (lend: boolean) => work.diff({ lend, compress: 'gzip' }),
      (lend: boolean) => store.images.export('work', { lend }),
      (lend: boolean) => store.images.save(['large:1'], { lend }),
      (lend: boolean) => store.images.save(['large:1'], { lend, compress: 'zstd' }),
    ];
    for (const call of calls) {
      const hash = createHash('sha256');
      let pieces = 0;
      for await (const piece of call(true)) {
        if (pieces++ % 8 === 0) await sleep(5); // the ring is full meanwhile
        hash.update(piece);
      }
      assert.equal(`sha256:${hash.digest('hex')}`, digestOf(await collect(call(false))));
      for await (const _ of call(true)) break;
    }
  },
);

eachStore('view() is read-only, counted, and may be held by name', async (store) => {
  await loadApp(store);
  {
    await using first = await store.layers.view('app:1');
    {
      await using second = await store.layers.view('app:1');
      assert.equal(second.path, first.path);
    }
    assert.equal(readFileSync(join(first.path, 'opt/tool'), 'utf8'), 'tool');
    if (store.driver.name === 'overlay2') {
      assert.throws(() => writeFileSync(join(first.path, 'opt/tool'), 'x'), { code: 'EROFS' });
    }
  }
  assert.equal(await store.layers.releaseView('app:1'), false);
  const held = await store.layers.view('app:1', { hold: true });
  await held[Symbol.asyncDispose]();
  assert.equal(readFileSync(join(held.path, 'opt/tool'), 'utf8'), 'tool', 'the hold outlives its handle');
  await assert.rejects(store.layers.releaseAt(join(held.path, 'opt')), fails('not-found', /nothing of this store/));
  assert.equal(await store.layers.releaseAt(held.path), true);
  await assert.rejects(store.layers.view('nobody:1'), fails('not-found'));
});

eachStore(
  'an unmount of what is busy names who uses it, and keeps the mount for another try',
  async (store, path, t) => {
    if (store.driver.name !== 'overlay2') return t.skip('nothing is mounted');
    await loadApp(store);
    const work = await store.layers.create('app:1', { name: 'work' });
    const mounted = await work.mount();
    const child = spawn('sleep', ['60'], { cwd: toText(mounted.path), stdio: 'ignore' });
    const mine = openSync(join(toText(mounted.path), 'etc/motd'), 'r');
    const busy = fails('busy', new RegExp(`process ${child.pid} \\("sleep 60"\\): its working directory`));
    await assert.rejects(mounted[Symbol.asyncDispose](), busy);
    assert.ok(existsSync(join(toText(mounted.path), 'etc/motd')), 'still mounted');
    assert.equal(await work.isMounted(), true);
    await assert.rejects(work.remove(), fails('busy', /mounted/));
    await assert.rejects(work.remove({ force: true }), fails('busy', /mounted/));
    assert.ok(existsSync(path));
    closeSync(mine);
    child.kill('SIGKILL');
    await new Promise((resolve) => child.on('exit', resolve));
    await mounted[Symbol.asyncDispose]();
    assert.equal(await work.isMounted(), false);
    const held = await work.mount({ hold: true });
    assert.equal(await work.isMounted(), true);
    await assert.rejects(work.remove(), fails('busy', /mounted/));
    assert.equal(await work.unmount(), true);
    assert.equal(await work.unmount(), false);
    assert.equal(existsSync(join(toText(held.path), 'etc')), false);
    await work.mount({ hold: true });
    await work.remove({ force: true });
  },
);

for (const driver of DRIVERS) {
  test(`openStore() remakes a writable layer's directory that is missing, says so, and opens with one that cannot be (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 64);
    const root = join(disk.path, 'store');
    const said: string[] = [];
    const log = { debug: () => {}, info: () => {}, warn: (line: string) => said.push(line) };
    const directories = (): string => join(root, driver, driver === 'vfs' ? 'dir' : '');
    let id = '';
    {
      await using store = await openStore({ root, driver });
      await loadApp(store);
      id = (await store.layers.create('app:1', { name: 'work' })).id;
    }
    rmSync(join(directories(), id), { recursive: true });
    {
      await using store = await openStore({ root, log });
      const work = await store.layers.get('work');
      await edit(work, (path) => assert.ok(existsSync(join(path, 'opt/tool'))));
      assert.match(said.join(), /"work" was missing: made anew/);
      assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    }
    for (const name of readdirSync(directories()))
      if (name.length === 64) rmSync(join(directories(), name), { recursive: true });
    said.length = 0;
    await using store = await openStore({ root, log });
    assert.ok((await store.upkeep.check()).length >= 3, 'check tells what is missing');
    assert.match(said.join(), /"work" is missing and cannot be made anew/);
    await store.layers.remove('work');
    await store.images.remove('app:1');
    // What pointed to the directories that we took away stays: nothing that anybody reads.
    assert.deepEqual(
      rootDump(root).filter((path) => !/^(overlay2\/l|vfs\/layers)\//.test(path)),
      [],
    );
    await loadApp(store);
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  });
}

eachStore('commit() notes an image that is too deep to be mounted, and create() on it has a remedy', async (store) => {
  if (store.driver.name !== 'overlay2') return;
  const layers = Array.from({ length: 128 }, (_, i) => layer(file(`f${i}`, String(i))));
  const tar = ociTar({ layers, names: ['docker.io/library/deep:1'] });
  await store.images.load(
    (async function* () {
      yield tar;
    })(),
  );
  await using work = await store.layers.create('deep:1');
  const { notes } = await work.commit('deep:2');
  assert.match(notes.join(), /129 layers, and overlay2 mounts a writable layer on at most 128/);
  await assert.rejects(
    store.layers.create('deep:2'),
    (error) => isStorageError(error, 'failed-precondition') && /join layers/.test(error.remedy ?? ''),
  );
});

eachStore(
  'a layer whose removal elsewhere has come half way is told as removed, not as damaged',
  async (store, path) => {
    await loadApp(store);
    const work = await store.layers.create('app:1');
    const image = await store.images.get('app:1');
    const view = store.layers.view(image);
    await (await view)[Symbol.asyncDispose]();
    const home = join(store.root, 'overlay2');
    const between = existsSync(home);
    if (between) cpSync(join(home, work.id), join(path, work.id), { recursive: true });
    await work.remove();
    await store.images.remove('app:1');
    await store.upkeep.gc({ wait: true });
    // Its row is gone and what it lies on, its directory is not.
    if (between) renameSync(join(path, work.id), join(home, work.id));
    const gone = fails('not-found', between ? /^Cannot use layer "?[\w-]+"?: it was removed meanwhile/ : /./);
    const all = async (items: AsyncIterable<unknown>): Promise<void> => {
      for await (const _ of items) assert.fail();
    };
    await assert.rejects(work.mount(), gone);
    await assert.rejects(work.explain(), gone);
    await assert.rejects(work.commit(undefined), fails('not-found'));
    await assert.rejects(all(work.changes()), gone);
    await assert.rejects(all(work.diff()), gone);
    await assert.rejects(store.layers.view(image), fails('not-found'));
    rmSync(join(home, work.id), { recursive: true, force: true });
    await assert.rejects(
      work.sizeBytes(),
      fails('not-found', /^Cannot use layer "?[\w-]+"?: it was removed meanwhile/),
    );
  },
);
