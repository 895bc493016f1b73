import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  linkSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { type ByteString, fromText, toText } from '../../src/base/bytes.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import { storageDriver } from '../../src/graph/storage-driver.ts';
import { openThreads } from '../../src/graph/threads.ts';
import { type ApplyReport, isStorageError, type LayerId, type StorageDriver } from '../../src/index.ts';
import { AT_FDCWD, mknodat, S_IFCHR, S_IFIFO, S_IFSOCK } from '../../src/linux/inode.ts';
import { lremovexattr, lsetxattr } from '../../src/linux/xattr.ts';
import type { Mount } from '../../src/mount/mount.ts';
import { openHouse } from '../contract/driver-house.ts';
import { FILESYSTEMS, type FilesystemName, filesystem, needsOf } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';
import { dumpTree } from '../kit/tree-dump.ts';

// Lists that the asker's own thread makes (`ahead.here`), as the command line does. Not here: law/library.test.ts.

const MOUNTS_OF_THREAD = `require('node:fs').readlinkSync('/proc/thread-self/ns/mnt')`;

const MODE = { redirect: 'on', metacopy: 'on' } as const;

/** What this thread sees of the machine, and leaves for what it makes. */
function standing(at: string): unknown[] {
  const links = ['ns/mnt', 'root', 'cwd'].map((name) => readlinkSync(`/proc/thread-self/${name}`));
  const umask = /^Umask:.*$/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[0];
  const mounts = readFileSync('/proc/thread-self/mountinfo', 'utf8').split('\n');
  // Other tests mount in the same namespace.
  return [...links, umask, mounts.filter((line) => line.includes(at))];
}

/** Another thread lets go of the mounts. */
async function soon(holds: () => boolean): Promise<void> {
  for (const end = performance.now() + 5000; !holds(); await turn()) assert.ok(performance.now() < end);
}

/** Those of mounts that this process has a descriptor of: each keeps all that is mounted there. */
function namespaces(): string[] {
  const links = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ''; // of the list itself
    }
  });
  return links.filter((link) => link.startsWith('mnt:'));
}

async function layerIn(driver: StorageDriver, mode: typeof MODE | undefined): Promise<[LayerId, LayerId]> {
  const [base, id] = ['base', 'top'] as string[] as LayerId[] as [LayerId, LayerId];
  await driver.create(base, { writable: true });
  {
    await using mounted = await driver.mount(base);
    const at = toText(mounted.path);
    for (const name of ['a', 'a/x', 'a/y', 'a/z', 'gone', 'kept']) mkdirSync(join(at, name));
    for (const name of ['a/y/f', 'a/z/f']) writeFileSync(join(at, name), 'f');
    for (let i = 0; i < 300; i++) writeFileSync(join(at, `a/f${i}`), 'f'.repeat(5000));
    writeFileSync(join(at, 'gone/f'), 'f');
    for (const name of ['b', 'b/link', 'b/link/in', 'b/mode', 'b/time', 'b/same', 'b/list', 'b/same/in'])
      mkdirSync(join(at, name));
    for (const name of ['b/time/f', 'b/link/in/f']) writeFileSync(join(at, name), 'f');
    symlinkSync('b', join(at, 'b-link'));
    utimesSync(join(at, 'b/link/in/f'), 1, 1);
  }
  await driver.create(id, { parent: base, writable: true });
  await using mounted = await driver.mount(id, mode === undefined ? {} : { mode });
  const at = toText(mounted.path);
  for (let i = 0; i < 300; i += 2) chmodSync(join(at, `a/f${i}`), 0o600);
  for (let i = 1; i < 300; i += 2) writeFileSync(join(at, `a/f${i}`), 'new');
  rmSync(join(at, 'gone'), { recursive: true });
  // A file in a directory of another mode that is carried for a link to it elsewhere.
  linkSync(join(at, 'b/link/in/f'), join(at, 'linked'));
  for (const name of ['b/link', 'b/link/in']) chmodSync(join(at, name), 0o711);
  // Directories in which nothing is: of another mode, another time, as they were, with another attribute.
  chmodSync(join(at, 'b/mode'), 0o700);
  for (const name of ['b/time/g', 'b/time/f']) writeFileSync(join(at, name), 'f');
  utimesSync(join(at, 'b/time/f'), 1, 1);
  rmSync(join(at, 'b/time/g'));
  for (const name of ['b/same', 'b/same/in']) for (const mode of [0o700, 0o755]) chmodSync(join(at, name), mode);
  lsetxattr(fromText(join(at, 'b/list')), 'user.name' as ByteString, Buffer.from('value'));
  if (mode !== undefined) renameSync(join(at, 'a/x'), join(at, 'moved'));
  for (let i = 0; i < 3000; i++) writeFileSync(join(at, `kept/new${i}`), '');
  return [base, id];
}

for (const [name, mode] of [...DRIVERS.map((driver) => [driver, undefined] as const), ['overlay2', MODE] as const]) {
  test(`changes() of the asker's thread is what a thread lists, and leaves it where it was: ${name}${mode ? ', redirect_dir, metacopy' : ''}`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 256);
    const openFor: Parameters<typeof openHouse>[1] = (settings) => openLayerDriver(name, settings);
    await using house = await openHouse(fromText(disk.path), openFor);
    await using threads = await openThreads(1);
    await using none = await openThreads(1, { here: true });
    for (const scratch of ['one', 'other']) mkdirSync(join(disk.path, scratch));
    const driver = storageDriver(house.driver, threads, fromText(join(disk.path, 'one')));
    const here = storageDriver(house.driver, none, fromText(join(disk.path, 'other')));
    const [base, id] = await layerIn(driver, mode);
    const written = mode === undefined ? {} : { mode };
    const before = standing(disk.path);
    const beside = namespaces().length;
    for (const renames of [undefined, 'collapse'] as const) {
      for (const rendering of ['core', 'docker'] as const) {
        const options = { ...written, rendering, ...(renames && { renames }) };
        const expected = await Array.fromAsync(driver.changes(id, base, options));
        assert.ok(expected.length > 3000);
        assert.deepEqual(await Array.fromAsync(here.changes(id, base, options)), expected);
        assert.deepEqual(standing(disk.path), before);
        await soon(() => namespaces().length === beside);
      }
    }
    // Who stops reading, or gives up, leaves it as well; others are heard meanwhile.
    const open = readdirSync('/proc/self/fd').length;
    for await (const _ of here.changes(id, base, written)) {
      assert.deepEqual(standing(disk.path), before); // and who is given a change is where he was
      break;
    }
    assert.deepEqual(standing(disk.path), before);
    await soon(() => readdirSync('/proc/self/fd').length === open);
    if (name === 'vfs') return; // its lists are made by a thread
    assert.equal(none.jobs.idle, 0);
    const expected = await Array.fromAsync(driver.changes(id, base, written));
    // Two at a time.
    const lists = [0, 1].map(() => here.changes(id, base, written)[Symbol.asyncIterator]());
    const found: unknown[][] = [];
    for (const list of lists) found.push([(await list.next()).value]);
    // A thread that is started meanwhile belongs to the process, and has its mounts.
    const worker = new Worker(`require('node:worker_threads').parentPort.postMessage(${MOUNTS_OF_THREAD})`, {
      eval: true,
    });
    assert.deepEqual(await once(worker, 'message'), [standing(disk.path)[0]]);
    for (const [i, list] of lists.entries()) {
      for (let next = await list.next(); next.done !== true; next = await list.next()) found[i]?.push(next.value);
      assert.deepEqual(found[i], expected);
    }
    assert.deepEqual(standing(disk.path), before);
    const giving = new AbortController();
    const reason = new Error('enough');
    const listing = (async () => {
      for await (const _ of here.changes(id, base, { ...written, signal: giving.signal })) {
        for (const until = performance.now() + 1; performance.now() < until; ) {}
      }
    })();
    setTimeout(() => giving.abort(reason), 50);
    await assert.rejects(listing, (error) => error === reason);
    assert.deepEqual(standing(disk.path), before);
    const both = [0, 1].map(() => Array.fromAsync(here.changes(id, base, written)));
    assert.deepEqual(await Promise.all(both), [expected, expected]);
    const looked = here.changes(id, base, written)[Symbol.asyncIterator]();
    await looked.next();
    assert.deepEqual(standing(disk.path), before);
    await looked.return?.();
    // A file whose data is to be elsewhere, and is nowhere: it cannot be read, and a list says so.
    const other = 'other' as string as LayerId;
    await driver.create(other, { parent: base, writable: true });
    const bad = join(toText((await driver.metadata(other)).upper), 'bad');
    writeFileSync(bad, '');
    truncateSync(bad, 5000);
    lsetxattr(fromText(bad), 'trusted.overlay.metacopy' as ByteString, new Uint8Array());
    for (const lists of [driver, here]) {
      const listed = Array.fromAsync(lists.changes(other, base, { ...written, rendering: 'docker' }));
      await assert.rejects(listed, (error) => isStorageError(error) && /\/bad/.test(error.message));
    }
    assert.deepEqual(standing(disk.path), before);
  });
}

/** Reads all of it; what is given is valid until the next is asked for. */
async function hashed(tar: AsyncIterable<Uint8Array>, each: () => void = () => {}): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of tar) {
    each();
    hash.update(chunk);
  }
  return hash.digest('hex');
}

for (const mode of [undefined, MODE]) {
  test(`diff() and transfer() of the asker's thread give what threads give, and leave it where it was: overlay2${mode ? ', redirect_dir, metacopy' : ''}`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 512);
    await using house = await openHouse(fromText(disk.path), (settings) => openLayerDriver('overlay2', settings));
    await using threads = await openThreads(2);
    await using none = await openThreads(2, { here: true });
    for (const scratch of ['one', 'other']) mkdirSync(join(disk.path, scratch));
    const driver = storageDriver(house.driver, threads, fromText(join(disk.path, 'one')));
    const here = storageDriver(house.driver, none, fromText(join(disk.path, 'other')));
    const [base, id] = await layerIn(driver, mode);
    const written = mode === undefined ? {} : { mode };
    const at = async (change: (at: string) => unknown): Promise<void> => {
      await using mounted = await driver.mount(id, written);
      change(toText(mounted.path));
    };
    await at((path) => mknodat(AT_FDCWD, fromText(join(path, 'kept/socket')), S_IFSOCK | 0o640, 0, 0));
    const before = standing(disk.path);
    let made = 0;
    /** What threads give and what the asker gives, of its tar and of the layer that is made of it. */
    const both = async (ofThreads: 'neither' | 'both'): Promise<void> => {
      const started = none.jobs.idle;
      const [told, alsoTold]: string[][] = [[], []];
      const expected = await hashed(driver.diff(id, base, { ...written, onNote: (note) => told?.push(note) }));
      const bytes: number[] = [];
      const tar = here.diff(id, base, {
        ...written,
        lend: true,
        onNote: (note) => alsoTold?.push(note),
        onBytes: (done) => bytes.push(done),
      });
      assert.equal(await hashed(tar, () => assert.deepEqual(standing(disk.path), before)), expected);
      assert.deepEqual(alsoTold, told);
      assert.match(String(told), /socket/);
      assert.ok((bytes.at(-1) ?? 0) > 0 && bytes.every((one, i) => one >= (bytes[i - 1] ?? 0)));
      assert.equal(none.jobs.idle > started, ofThreads === 'both', `threads for ${ofThreads}`);
      const filled: { readonly report: ApplyReport; readonly tree: string[]; readonly record: Buffer }[] = [];
      const done: number[] = [];
      for (const one of [driver, here]) {
        const to = `made${made++}` as string as LayerId;
        await one.create(to, { parent: base, writable: false });
        const record = join(disk.path, `record${made}`);
        const tasks = readdirSync('/proc/self/task').length;
        const { writtenBack, ...report } = await one.transfer(id, to, {
          ...written,
          fresh: true,
          record: fromText(record),
          onBytes: (bytes) => one === here && done.push(bytes),
        });
        await writtenBack;
        if (one === here && ofThreads === 'neither') assert.equal(readdirSync('/proc/self/task').length, tasks);
        const { root } = await one.content(to);
        filled.push({
          report,
          tree: dumpTree(toText(root)).map((line) => line.replace(/( 0:0 0,0 0) \d+$/, '$1')),
          record: readFileSync(record),
        });
        await one.verify(to, fromText(record), report.diffId);
        assert.deepEqual(await one.audit(to, fromText(record)), { faults: [], more: 0 });
        assert.deepEqual(standing(disk.path), before);
      }
      assert.deepEqual(filled[1], filled[0]);
      assert.equal(filled[0]?.report.diffId, `sha256:${expected}`);
      assert.equal(done.at(-1), filled[0]?.report.tarBytes);
    };
    await both(mode === undefined ? 'neither' : 'both');
    if (mode !== undefined) return;

    // Who stops in the middle, or gives up, leaves it as well.
    const open = readdirSync('/proc/self/fd').length;
    await at((path) => writeFileSync(join(path, 'large'), randomBytes(12 << 20)));
    for await (const _ of here.diff(id, base)) break;
    assert.deepEqual(standing(disk.path), before);
    const giving = new AbortController();
    const reason = new Error('enough');
    const tar = here.diff(id, base, { signal: giving.signal });
    await assert.rejects(
      hashed(tar, () => giving.abort(reason)),
      (error) => error === reason,
    );
    assert.deepEqual(standing(disk.path), before);
    assert.equal(readdirSync('/proc/self/fd').length, open);
    await both('neither');
    // What fails names what it is of, and leaves it too.
    await at((path) => writeFileSync(join(path, '.wh.name'), ''));
    await assert.rejects(hashed(here.diff(id, base)), (error) => isStorageError(error, 'unsupported'));
    const lost = 'lost' as string as LayerId;
    await here.create(lost, { parent: base, writable: false });
    await assert.rejects(here.transfer(id, lost, { fresh: true }), (error) => isStorageError(error, 'unsupported'));
    assert.deepEqual(standing(disk.path), before);
    await at((path) => rmSync(join(path, '.wh.name')));
    // Holes are skipped, and much is for threads.
    await at((path) => truncateSync(join(path, 'large'), 30 << 20));
    await both('both');
  });
}

/** A commit whose layer `change` changes once its upper was looked through: its id, and that of a tar made afterwards. */
async function changedMeanwhile(
  kind: FilesystemName,
  change: (upper: string) => void,
): Promise<{ diffId: string; afterwards: string }> {
  await using disk = await filesystem(kind, 256);
  await using house = await openHouse(fromText(disk.path), (settings) => openLayerDriver('overlay2', settings));
  await using threads = await openThreads(2);
  await using none = await openThreads(2, { here: true });
  for (const scratch of ['one', 'other']) mkdirSync(join(disk.path, scratch));
  const driver = storageDriver(house.driver, threads, fromText(join(disk.path, 'one')));
  const [base, id] = await layerIn(driver, undefined);
  const upper = toText((await driver.metadata(id)).upper);
  {
    await using mounted = await driver.mount(id);
    const at = toText(mounted.path);
    for (const name of ['more', 'more/dir', 'more/dir/sub', 'a/x/made']) mkdirSync(join(at, name));
    for (let i = 0; i < 9; i++) writeFileSync(join(at, `more/f${i}`), 'some');
    for (const name of ['more/dir/f', 'more/dir/sub/f', 'more/z', 'a/x/f', 'a/x/made/f']) {
      writeFileSync(join(at, name), 'some');
    }
    symlinkSync('there', join(at, 'more/link'));
    for (const name of ['a/y/f', 'a/z/f']) writeFileSync(join(at, name), 'other');
    rmSync(join(at, 'a/f0'));
    for (const name of ['a/odd', 'a/f0', 'a/f0/below']) mkdirSync(join(at, name));
    writeFileSync(join(at, 'a/f0/f'), 'some');
  }
  // They say that they were copied from below, where no such directory is.
  for (const name of ['a/odd', 'a/f0', 'a/f0/below']) {
    lsetxattr(fromText(join(upper, name)), 'trusted.overlay.origin' as ByteString, Buffer.from('odd'));
  }
  lremovexattr(fromText(join(upper, 'a/f0')), 'trusted.overlay.opaque' as ByteString);
  // Where the base has a symlink.
  for (const name of ['b-link', 'b-link/link', 'b-link/link/in', 'b-link/mode']) {
    mkdirSync(join(upper, name));
    lsetxattr(fromText(join(upper, name)), 'trusted.overlay.origin' as ByteString, Buffer.from('odd'));
  }
  writeFileSync(join(upper, 'b-link/link/in/f'), 'f');
  utimesSync(join(upper, 'b-link/link/in/f'), 1, 1);
  let acted = false;
  const act = (): void => {
    acted = true;
    change(upper);
  };
  // The target is asked for after the upper was looked through.
  const changing = new Proxy(house.driver, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      return (...of: unknown[]): unknown => {
        if (key === 'content' && of[0] !== id && !acted) act();
        return value.apply(target, of);
      };
    },
  });
  const here = storageDriver(changing, none, fromText(join(disk.path, 'other')));
  const to = 'to' as string as LayerId;
  await driver.create(to, { parent: base, writable: false });
  const { diffId } = await here.transfer(id, to, { fresh: true });
  assert.ok(acted && none.jobs.idle === 0);
  return { diffId, afterwards: `sha256:${await hashed(driver.diff(id, base))}` };
}

for (const kind of FILESYSTEMS) {
  test(`transfer() of the asker’s thread takes what changes after its first look as it is when its turn comes: ${kind}`, async (t) => {
    if (!need(t, ...needsOf(kind))) return;
    const { diffId, afterwards } = await changedMeanwhile(kind, (upper) => {
      // Of files that were seen to show themselves: gone, deleted by a whiteout, others.
      for (const name of ['more/f1', 'more/f2', 'more/f3', 'more/link', 'a/f5', 'a/f7', 'a/f9', 'a/f11']) {
        rmSync(join(upper, name));
      }
      symlinkSync('elsewhere', join(upper, 'more/f2'));
      mknodat(AT_FDCWD, fromText(join(upper, 'more/f3')), S_IFIFO | 0o600, 0, 0);
      for (const name of ['a/f7', 'a/f11']) mknodat(AT_FDCWD, fromText(join(upper, name)), S_IFCHR, 0, 0);
      symlinkSync('now a link', join(upper, 'a/f9'));
      chmodSync(join(upper, 'more/f4'), 0o640);
      writeFileSync(join(upper, 'more/f5'), 'longer than before');
      writeFileSync(join(upper, 'a/f13'), 'longer than before');
      renameSync(join(upper, 'more/f6'), join(upper, 'more/f7'));
      writeFileSync(join(upper, 'more/dir/f'), '');
      for (const name of ['more/dir/sub', 'a/x/made', 'a/y', 'a/z']) rmSync(join(upper, name), { recursive: true });
      mknodat(AT_FDCWD, fromText(join(upper, 'a/y')), S_IFCHR, 0, 0);
      chmodSync(join(upper, 'more/dir'), 0o700);
      for (const name of ['kept/new5', 'kept/new2999', 'a/f3', 'a/f4']) rmSync(join(upper, name));
      chmodSync(join(upper, 'kept/new6'), 0o604);
      rmSync(join(upper, 'kept/new7'));
      mkdirSync(join(upper, 'kept/new7'));
      writeFileSync(join(upper, 'kept/new7/inside'), 'inside');
      writeFileSync(join(upper, 'kept/new8'), 'longer');
    });
    assert.equal(diffId, afterwards);
    // What is in a directory was not looked at where a file was.
    const replaced = changedMeanwhile(kind, (upper) => {
      rmSync(join(upper, 'more/f1'));
      mkdirSync(join(upper, 'more/f1'));
      writeFileSync(join(upper, 'more/f1/inside'), 'inside');
    });
    await assert.rejects(replaced, /"\/more\/f1": another took its place while it was read/);
  });
}

test('mounts of the asker’s thread take no other one, and leave it where it was', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  await using here = await openThreads(2, { here: true });
  await using threads = await openThreads(2);
  const at = (...names: string[]): ByteString => fromText(join(disk.path, ...names));
  for (const name of ['upper', 'work', 'merged']) mkdirSync(join(disk.path, name));
  // More than a page of options: by paths that are relative to another working directory.
  const lowers = Array.from({ length: 100 }, (_, i) => `lower-${'x'.repeat(60)}-${i}`);
  for (const name of lowers) {
    mkdirSync(join(disk.path, 'home', name), { recursive: true });
    writeFileSync(join(disk.path, 'home', name, name), '');
  }
  const short = lowers.map((_, i) => `l${i}` as ByteString);
  for (const [i, name] of lowers.entries()) symlinkSync(name, join(disk.path, 'home', `l${i}`));
  const plan: Mount = {
    type: 'overlay',
    lower: lowers.map((name) => at('home', name)),
    upper: at('upper'),
    work: at('work'),
    userxattr: false,
    short: { base: at('home'), lower: short, upper: '../upper' as ByteString, work: '../work' as ByteString },
  };
  const target = at('merged');
  const before = standing(disk.path);
  const tasks = readdirSync('/proc/self/task').length;
  await here.perform.mount(plan, target);
  const [mounts, ...places] = standing(disk.path).toReversed();
  assert.deepEqual(places.toReversed(), before.slice(0, -1));
  assert.equal((mounts as string[]).length, (before.at(-1) as string[]).length + 1);
  assert.equal(readdirSync(join(disk.path, 'merged')).length, 100);
  assert.equal(readdirSync('/proc/self/task').length, tasks);
  const fd = openSync(join(disk.path, 'merged'), 'r');
  assert.equal(await here.perform.unmount(target, { detach: false }), false); // it is in use
  closeSync(fd);
  assert.equal(await here.perform.unmount(target, { detach: false }), true);
  assert.deepEqual(standing(disk.path), before);
  assert.equal(readdirSync('/proc/self/task').length, tasks);
  // What fails says the same.
  const { upper: _, work: __, short: ___, ...rest } = plan;
  const bad: Mount = { ...rest, lower: [at('home', 'nothing'), at('home')] };
  const said: unknown[] = [];
  for (const { perform } of [here, threads]) {
    await assert.rejects(perform.mount(bad, target), (error) => {
      assert.ok(isStorageError(error, 'not-found'));
      return said.push([error.message, error.errno, error.path]) > 0;
    });
  }
  assert.deepEqual(said[0], said[1]);
});
