import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  appendFileSync,
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { release } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { type TestContext, test } from 'node:test';
import { fromText, toText } from '../../src/base/bytes.ts';
import type { Performer } from '../../src/driver/driver.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import { type OverlayFindings, probeOverlay } from '../../src/driver/overlay/probe.ts';
import { storageDriver } from '../../src/graph/storage-driver.ts';
import { openThreads } from '../../src/graph/threads.ts';
import { type Diagnosis, openStore, type Store } from '../../src/index.ts';
import { lgetxattr, lsetxattr } from '../../src/linux/xattr.ts';
import { openHouse } from '../contract/driver-house.ts';
import { layerstore } from '../doors/run-cli.ts';
import { filesystem } from '../kit/filesystems.ts';
import { inlinePerformer } from '../kit/inline-performer.ts';
import { directory, file, hardlink, layer, ociImage } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { collect } from '../transport/archives.ts';

// The kernel checks (driver-behaviour K1, K2): by real mounts, with the kernel's parameters and mount options either way.

const PARAMETERS = '/sys/module/overlay/parameters';
const OPAQUE = fromText('trusted.overlay.opaque');

/** Sets parameters of the overlay module until the end of the block; undefined where this machine does not let us. */
function parameters(t: TestContext, values: Readonly<Record<string, string>>): Disposable | undefined {
  const before = Object.keys(values).map(
    (name) => [name, readFileSync(join(PARAMETERS, name), 'utf8').trim()] as const,
  );
  const set = (all: readonly (readonly [string, string])[]): void => {
    for (const [name, value] of all) writeFileSync(join(PARAMETERS, name), value);
  };
  try {
    set(Object.entries(values));
  } catch (error) {
    set(before);
    t.skip(`the kernel's parameters cannot be set: ${error}`);
    return undefined;
  }
  return { [Symbol.dispose]: () => set(before) };
}

function verdicts({ copyUp }: OverlayFindings): unknown {
  assert.ok(copyUp !== undefined);
  const { copiesOpaque, nativeDiff, redirects, metacopy } = copyUp;
  return {
    copiesOpaque: copiesOpaque.holds,
    nativeDiff: nativeDiff.holds,
    redirects: redirects.holds,
    metacopy: metacopy.holds,
  };
}

const MODES = [
  [
    { redirect_dir: 'N', metacopy: 'N' },
    { redirect: 'off', metacopy: 'off' },
    { nativeDiff: true, redirects: false, metacopy: false },
  ],
  [
    { redirect_dir: 'Y', metacopy: 'N' },
    { redirect: 'on', metacopy: 'off' },
    { nativeDiff: false, redirects: true, metacopy: false },
  ],
  [
    { redirect_dir: 'Y', metacopy: 'Y' },
    { redirect: 'on', metacopy: 'on' },
    { nativeDiff: false, redirects: true, metacopy: true },
  ],
] as const;

test('probeOverlay() finds redirect_dir and metacopy as the kernel has them or as the mount says, and leaves nothing (K1, K2)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  for (const kind of ['tmpfs', 'ext4'] as const) {
    if (!need(t, kind === 'ext4' ? 'mkfs.ext4' : 'mount')) return;
    await using disk = await filesystem(kind, 64);
    await using real = inlinePerformer();
    for (const [values, options, expected] of MODES) {
      const found = { copiesOpaque: false, ...expected };
      {
        using set = parameters(t, values);
        if (set === undefined) return;
        assert.deepEqual(
          verdicts(await probeOverlay(fromText(disk.path), real)),
          found,
          `${kind} ${JSON.stringify(values)}`,
        );
      }
      const saying: Performer = {
        ...real,
        mount: (plan, target) => real.mount(plan.type === 'overlay' ? { ...plan, ...options } : plan, target),
      };
      assert.deepEqual(
        verdicts(await probeOverlay(fromText(disk.path), saying)),
        found,
        `${kind} ${JSON.stringify(options)}`,
      );
    }
    assert.deepEqual(
      readdirSync(disk.path).filter((name) => name !== 'lost+found'),
      [],
    );
  }
});

/** As a kernel before 4.8: what is shown is the upper, in which a directory takes the opaque mark when it is copied up. */
function oldKernel(real: Performer, writable = true): Performer {
  let mounts = 0;
  return {
    ...real,
    async mount(plan, target) {
      if (mounts++ > 0 || plan.type !== 'overlay') return real.mount(plan, target);
      const upper = toText(plan.upper ?? plan.lower[0] ?? target);
      mkdirSync(join(upper, 'd'));
      mkdirSync(join(upper, 'd1'));
      lsetxattr(fromText(join(upper, 'd')), OPAQUE, Buffer.from('y'));
      for (const name of ['empty', 'full']) writeFileSync(join(upper, name), '');
      await real.mount({ type: 'bind', source: fromText(upper), readonly: !writable }, target);
    },
  };
}

test('a kernel that copies the opaque mark up has no native diff: layers are read through mounts, and it is said (K1)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  await using real = inlinePerformer();
  assert.deepEqual(verdicts(await probeOverlay(fromText(disk.path), oldKernel(real))), {
    copiesOpaque: true,
    nativeDiff: false,
    redirects: false,
    metacopy: false,
  });
  const open: Parameters<typeof openHouse>[1] = (settings) => openLayerDriver('overlay2', settings);
  await using house = await openHouse(fromText(disk.path), open, { perform: oldKernel });
  const status = new Map(await house.driver.status());
  assert.equal(status.get('Native Overlay Diff'), 'false');
  assert.match(status.get('Native Overlay Diff by Docker') ?? '', /^false: .*opaque mark/);
  await using threads = await openThreads(2);
  mkdirSync(join(disk.path, 'scratch'));
  const driver = storageDriver(house.driver, threads, fromText(join(disk.path, 'scratch')));
  const [a, b] = ['a', 'b'].map((name) => name as string as Parameters<typeof driver.create>[0]) as [never, never];
  await driver.create(a, { writable: false });
  await driver.create(b, { writable: true, parent: a });
  {
    await using mounted = await driver.mount(b);
    writeFileSync(join(toText(mounted.path), 'new'), '');
  }
  const found: string[] = [];
  for await (const { kind, path } of driver.changes(b, a)) found.push(`${kind} ${toText(path)}`);
  assert.deepEqual(found, ['add /new']);
  assert.match(await driver.explain(b, a), /^walk: .*opaque mark/);
});

test('info and doctor show the verdict of Docker beside ours, under whatever defaults of the kernel (K1, K2, O6)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const root = join(disk.path, 'store');
  const run = (...args: string[]): string => {
    const { status, stdout, stderr } = layerstore(root, args);
    assert.equal(status, 0, stderr);
    return stdout;
  };
  run('--driver', 'overlay2', 'create', '--name', 'x');
  // One store all the while: what was found under other defaults is not shown.
  for (const [values, , { nativeDiff, redirects, metacopy }] of MODES) {
    using set = parameters(t, values);
    if (set === undefined) return;
    const by = nativeDiff ? /^true: .*is the difference as it is$/ : /^false: .*redirect_dir is on\)$/;
    const shown = new Map<string, string>(JSON.parse(run('info', '--json')).driver.status);
    assert.match(shown.get('Native Overlay Diff by Docker') ?? '', by);
    const ours = { 'Native Overlay Diff': true, 'Using metacopy': metacopy, redirect_dir: redirects ? 'on' : 'off' };
    for (const [name, value] of Object.entries(ours)) assert.equal(shown.get(name), String(value), name);
    const lines = run('info').split('\n');
    for (const [name, value] of shown) assert.ok(lines.includes(` ${name}: ${value}`), name);

    const diagnoses: Diagnosis[] = run('doctor', '--json')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    const found = diagnoses.filter(({ driver }) => driver === 'overlay2');
    const expected: Readonly<Record<string, readonly [boolean, RegExp]>> = {
      'native diff': [true, /upper directory alone is read/],
      'native diff by Docker': [nativeDiff, nativeDiff ? /is the difference as it is$/ : /redirect_dir is on\)$/],
      redirect_dir: [redirects, redirects ? /redirect_dir is on\)$/ : /redirect_dir is off\)$/],
      metacopy: [metacopy, metacopy ? /without its data \(metacopy\)$/ : /with its data$/],
    };
    const table = run('doctor');
    for (const [name, [holds, because]] of Object.entries(expected)) {
      const one = found.find((diagnosis) => diagnosis.name === name);
      assert.equal(one?.holds, holds, name);
      assert.match(one.because, because);
      const row = ['overlay2', name, holds ? 'yes' : 'no', one.because].join(' ');
      assert.ok(
        table.split('\n').some((line) => line.replace(/ +/g, ' ') === row),
        row,
      );
    }
  }
});

test('a check of metacopy that cannot be made is an error, not an answer, and leaves nothing (K2)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  await using real = inlinePerformer();
  await assert.rejects(probeOverlay(fromText(disk.path), oldKernel(real, false)), /EROFS|read-only/i);
  assert.deepEqual(readdirSync(disk.path), []);
});

test('a layer is read as it was written when the defaults of the kernel are others (U6)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 128);
  const root = join(disk.path, 'store');
  const base = layer(directory('d/'), file('d/f', 'f'.repeat(5000)), file('d/g', 'g'), file('h', 'h'.repeat(5000)));
  {
    using set = parameters(t, { redirect_dir: 'Y', metacopy: 'Y' });
    if (set === undefined) return;
    await using store = await openStore({ root, driver: 'overlay2' });
    await store.images.load([ociImage([base], 'base')] as never);
    await write(store, 'on');
  }
  await using store = await openStore({ root });
  await using work = await store.layers.get('on');
  const written = { redirect: 'on', metacopy: 'on', userxattr: false, index: 'off' };
  assert.deepEqual(modeOf(store, work.id), written);
  const upper = (await store.driver.status()) && join(store.driver.home, work.id, 'diff');
  assert.ok(lgetxattr(fromText(join(upper, 'moved')), fromText('trusted.overlay.redirect')) !== undefined);
  assert.ok(lgetxattr(fromText(join(upper, 'h')), fromText('trusted.overlay.metacopy')) !== undefined);
  const listed = async (): Promise<string[]> => {
    const found: string[] = [];
    for await (const { kind, path } of work.changes()) found.push(`${kind} ${toText(path)}`);
    return found;
  };
  const expected = ['delete /d', 'modify /h', 'add /moved', 'add /moved/f', 'add /moved/g', 'add /new'];
  assert.deepEqual(await listed(), expected);
  assert.match(await work.explain(), /^upper: /);
  {
    await using mounted = await work.mount();
    assert.equal(readFileSync(join(toText(mounted.path), 'moved/f'), 'utf8'), `${'f'.repeat(5000)}more`);
    assert.equal(readFileSync(join(toText(mounted.path), 'h'), 'utf8'), 'h'.repeat(5000));
    // Still written as before, under a kernel that would not do so by itself.
    renameSync(join(toText(mounted.path), 'moved'), join(toText(mounted.path), 'again'));
  }
  const image = await work.commit('next:1');
  {
    await using view = await store.layers.view(image.id);
    assert.equal(readFileSync(join(toText(view.path), 'again/f'), 'utf8'), `${'f'.repeat(5000)}more`);
    assert.equal(readFileSync(join(toText(view.path), 'h'), 'utf8'), 'h'.repeat(5000));
  }
  // What is committed depends on no default.
  for (const id of readdirSync(store.driver.home).filter((name) => /^[0-9a-f]{64}$/.test(name) && name !== work.id)) {
    for (const path of ['again', 'h']) {
      for (const mark of ['redirect', 'metacopy']) {
        const at = fromText(join(store.driver.home, id, 'diff', path));
        assert.equal(lgetxattrOrNothing(at, `trusted.overlay.${mark}`), undefined, `${id} ${path} ${mark}`);
      }
    }
  }
  assert.deepEqual(await store.upkeep.check({ deep: true }), []);
});

test('explain() says which way is taken for a list with renames, which counts no links, and for one without', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 128);
  using set = parameters(t, { redirect_dir: 'Y' });
  if (set === undefined) return;
  await using store = await openStore({ root: join(disk.path, 'store'), driver: 'overlay2' });
  await store.images.load([
    ociImage([layer(directory('d/'), file('d/f', 'f'), hardlink('link', 'd/f'))], 'base'),
  ] as never);
  const work = await store.layers.create('base:1');
  {
    await using mounted = await work.mount();
    renameSync(join(toText(mounted.path), 'd'), join(toText(mounted.path), 'moved'));
    const fd = openSync(toText(mounted.path), 'r');
    const socket = createServer().listen(`/proc/self/fd/${fd}/socket`); // its own name would be too long for a socket
    await once(socket, 'listening');
    renameSync(join(toText(mounted.path), 'socket'), join(toText(mounted.path), 'kept')); // closing takes the first away
    await new Promise((done) => socket.close(done));
    closeSync(fd);
  }
  assert.match(await work.explain(), /^walk: \/moved\/f has names in places/);
  assert.match(await work.explain({ renames: 'collapse' }), /^upper: /);
  const found = await Array.fromAsync(
    work.changes({ renames: 'collapse' }),
    ({ kind, path }) => `${kind} ${toText(path)}`,
  );
  assert.deepEqual(found, ['add /kept', 'rename /moved']);
  const notes: string[] = [];
  await collect(work.diff({ onNote: (note) => void notes.push(note) }));
  assert.deepEqual(notes, ['an archive cannot hold a socket: /kept']);
});

/** As the store's row of the layer has it. */
function modeOf(store: Store, id: string): unknown {
  using database = new DatabaseSync(join(store.root, 'store.db'), { readOnly: true });
  const row = database.prepare('SELECT overlay_mode FROM layers WHERE driver_id = ?').get(id);
  return JSON.parse(String(row?.['overlay_mode']));
}

function lgetxattrOrNothing(path: ReturnType<typeof fromText>, name: string): Buffer | undefined {
  try {
    return lgetxattr(path, fromText(name));
  } catch {
    return undefined; // this layer has no such file
  }
}

async function write(store: Store, name: string): Promise<void> {
  await using work = await store.layers.create('base:1', { name });
  await using mounted = await work.mount();
  const path = toText(mounted.path);
  renameSync(join(path, 'd'), join(path, 'moved'));
  appendFileSync(join(path, 'moved/f'), 'more');
  chmodSync(join(path, 'h'), 0o600);
  writeFileSync(join(path, 'new'), '');
}

test('probeOverlay() says whether userxattr is needed: in a user namespace, by a real mount, and leaves nothing (K3)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  const child = new URL('probe-child.ts', import.meta.url).pathname;
  await using disk = await filesystem('tmpfs', 16);
  await using threads = await openThreads(1);
  const { userxattr } = await probeOverlay(fromText(disk.path), threads.perform);
  assert.deepEqual([userxattr.holds, /in no user namespace/.test(userxattr.because)], [false, true]);
  const inside = (...flags: string[]): OverlayFindings => {
    const run = ['--user', '--map-root-user', ...flags, process.execPath, child, disk.path];
    const { status, stdout, stderr } = spawnSync('unshare', run, { encoding: 'utf8', timeout: 60_000 });
    assert.deepEqual([status, stderr], [0, '']);
    return JSON.parse(stdout) as OverlayFindings;
  };
  if (spawnSync('unshare', ['--user', '--map-root-user', 'true']).status !== 0) {
    t.skip('this machine lets nobody make a user namespace');
    return;
  }
  const whole = inside('--mount');
  const [major = 0, minor = 0] = release().split('.').map(Number);
  if (major > 5 || (major === 5 && minor >= 11)) {
    assert.equal(whole.userxattr.holds, true, whole.userxattr.because);
    assert.match(whole.userxattr.because, /mounts with userxattr/);
  }
  assert.equal(whole.overlay.holds, false, 'the driver is not for user namespaces yet');
  // Without a mount namespace of its own it may mount nothing.
  const bare = inside();
  assert.equal(bare.userxattr.holds, false);
  assert.match(bare.userxattr.because, /does not mount with userxattr: .*(EPERM|not permitted)/);
  assert.deepEqual(readdirSync(disk.path), []);
});
