import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { after, before, describe, type TestContext, test } from 'node:test';
import { type ByteString, fromText, toBytes } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import type { IdMaps } from '../../src/base/id-map.ts';
import type { DriverName, LayerId } from '../../src/base/values.ts';
import { keepXattr } from '../../src/fs/xattrs.ts';
import { lgetxattr, llistxattr, lsetxattr } from '../../src/linux/xattr.ts';
import { FILESYSTEMS, type FilesystemName, filesystem, needsOf } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { type Scratch, scratch } from '../kit/scratch.ts';
import { diffDuties } from './diff-suite.ts';
import { below, dump, type House, type HouseOptions, id, mountInChild, type Open, openHouse } from './driver-house.ts';

// What every driver owes its callers (driver-behaviour D1 to D10), on every filesystem; the numbers are in the titles.

/** Gives a test its own driver; undefined after a visible skip. */
export type Fixture = (
  t: TestContext,
  options?: HouseOptions & { readonly root?: string },
) => Promise<House | undefined>;

/** Runs `body` on each filesystem, with one fresh filesystem for all tests of a kind. */
export function onFilesystems(title: string, open: Open, body: (house: Fixture, kind: FilesystemName) => void): void {
  for (const kind of FILESYSTEMS) {
    describe(`${title} on ${kind}`, () => {
      let disk: Scratch | undefined;
      let count = 0;
      before(async (t) => {
        if (need(t as TestContext, ...needsOf(kind))) disk = await filesystem(kind);
      });
      after(() => disk?.[Symbol.asyncDispose]());
      body(async (t, options = {}) => {
        if (!need(t, ...needsOf(kind)) || disk === undefined) return undefined;
        const root = `${fromText(disk.path)}/${count++}${options.root ?? ''}` as ByteString;
        return await openHouse(root, open, options);
      }, kind);
    });
  }
}

/** Entries of a user, of whom nobody else knows anything: tag, permissions, id (include/uapi/linux/posix_acl_xattr.h). */
const DEFAULT_ACL = Buffer.from(
  [
    [1, 7, -1],
    [2, 7, 1000],
    [4, 0, -1],
    [0x10, 7, -1],
    [0x20, 0, -1],
  ].reduce((hex, [tag = 0, perm = 0, id = 0]) => {
    const entry = Buffer.alloc(8);
    entry.writeUInt16LE(tag, 0);
    entry.writeUInt16LE(perm, 2);
    entry.writeInt32LE(id, 4);
    return hex + entry.toString('hex');
  }, '02000000'),
  'hex',
);

/** The suite. A new driver passes it by one file and ten lines of test. */
export function driverSuite(name: DriverName, open: Open): void {
  onFilesystems(`${name}, every driver's duties`, open, (house) => {
    const a = id('a');
    const b = id('b');

    test('create() makes an empty layer that list(), has() and parent() know (D2)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await h.driver.create(a, { writable: false });
      await h.driver.create(b, { parent: a, writable: true });
      assert.deepEqual((await h.driver.list()).sort(), ['a', 'b']);
      assert.equal(await h.driver.has(a), true);
      assert.equal(await h.driver.has(id('c')), false);
      assert.equal(await h.driver.parent(b), 'a');
      assert.equal(await h.driver.parent(a), undefined);
      const { root } = await h.driver.content(a);
      assert.deepEqual(readdirSync(toBytes(root)), []);
      assert.equal(statSync(toBytes(root)).mode & 0o7777, 0o755);
    });

    test('create() answers already-exists and changes nothing when the id is there (D2b)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await h.driver.create(a, { writable: false });
      await h.driver.create(b, { parent: a, writable: true });
      const was = dump(h.driver.home);
      await rejects(h.driver.create(b, { parent: a, writable: true }), 'already-exists');
      await rejects(h.driver.create(a, { writable: false }), 'already-exists');
      assert.deepEqual(dump(h.driver.home), was);
    });

    test('create() leaves nothing behind when the parent is absent (D4)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      const was = dump(h.driver.home);
      await rejects(h.driver.create(b, { parent: a, writable: true }), 'not-found');
      assert.deepEqual(dump(h.driver.home), was);
    });

    test('create() leaves nothing behind when the filesystem is full, whenever that happens (D4)', async (t) => {
      if (!need(t, 'root', 'mount')) return;
      await using dir = await scratch('full');
      const path = `${dir.path}/fs`;
      spawnSync('mkdir', [path]);
      assert.equal(spawnSync('mount', ['-t', 'tmpfs', '-o', 'nr_inodes=60', 'layerstore-test', path]).status, 0);
      try {
        await using h = await openHouse(fromText(path), open, { run: fromText(`${dir.path}/run`) });
        await h.driver.create(a, { writable: false });
        for (let fill = 0; ; fill++) {
          try {
            writeFileSync(`${path}/fill${fill}`, '');
          } catch {
            break;
          }
        }
        const was = dump(h.driver.home);
        let failures = 0;
        for (let free = 0; ; free++) {
          try {
            await h.driver.create(b, { parent: a, writable: true });
            break;
          } catch (error) {
            assert.ok(isStorageError(error, 'resource-exhausted'), String(error));
            assert.deepEqual(dump(h.driver.home), was);
            failures++;
          }
          spawnSync('rm', [`${path}/fill${free}`]);
        }
        assert.ok(failures > 0);
        assert.equal(await h.driver.parent(b), 'a');
      } finally {
        spawnSync('umount', ['-R', '-l', path]);
      }
    });

    test('every operation refuses an id that is no plain path component (D2b)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      const { driver } = h;
      const bad = [
        '',
        '.',
        '..',
        'a/b',
        '../x',
        'a\nb',
        'a\0b',
        'l',
        'backingFsBlockDev',
        'x-removing',
        '.hidden',
        'n'.repeat(256),
      ];
      for (const name of [...bad, 'snow\u2603']) {
        const wrong = name as LayerId;
        const calls = [
          () => driver.create(wrong, { writable: true }),
          () => driver.create(b, { parent: wrong, writable: true }),
          () => driver.remove(wrong),
          () => driver.has(wrong),
          () => driver.parent(wrong),
          () => driver.metadata(wrong),
          () => driver.content(wrong),
          () => driver.seal([wrong]),
          () => driver.mounts(wrong),
          () => driver.mount(wrong),
          () => driver.release(wrong, 'x'),
          () => driver.isMounted(wrong),
        ];
        for (const call of calls) await rejects(call(), 'invalid-argument');
      }
      assert.deepEqual(await driver.list(), []);
      for (const name of ['n'.repeat(255), 'A b', 'l2', '-', 'a:b,c\\d'])
        await driver.create(id(name), { writable: true });
      assert.equal((await driver.list()).length, 5);
      for (const layer of await driver.list()) {
        const { staging } = await driver.content(layer);
        if (staging !== undefined) mkdirSync(toBytes(staging));
        await driver.remove(layer);
        if (staging !== undefined) assert.equal(existsSync(toBytes(staging)), false);
      }
      assert.deepEqual(await driver.list(), []);
    });

    test('mount() shows the parents, takes writes, and is counted (D3)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      const first = await h.driver.mount(b);
      const second = await h.driver.mount(b);
      assert.equal(first.path, second.path);
      assert.equal(await h.driver.isMounted(b), true);
      assert.equal(readFileSync(below(first.path, 'from-a'), 'utf8'), 'a');
      writeFileSync(below(first.path, 'from-b'), 'b');
      await first[Symbol.asyncDispose]();
      await first[Symbol.asyncDispose]();
      assert.equal(readFileSync(below(second.path, 'from-b'), 'utf8'), 'b');
      assert.equal(await h.driver.isMounted(b), true);
      await second[Symbol.asyncDispose]();
      assert.equal(await h.driver.isMounted(b), false);
      assert.deepEqual(
        dump(h.settings.run).filter((line) => /\/(holds|locks)\/[^.]/.test(line)),
        [],
      );
      const { root } = await h.driver.content(b);
      assert.equal(readFileSync(below(root, 'from-b'), 'utf8'), 'b');
      assert.equal(existsSync(below((await h.driver.content(a)).root, 'from-b')), false);
    });

    test('mount() and release() count named holds, which their process does not end (D3b)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      assert.equal(await h.driver.release(b, 'box'), false);
      await using child = await mountInChild(h, b, { holdName: 'box' });
      await child.kill();
      await h.driver.mount(b, { holdName: 'other' });
      assert.equal(readFileSync(below(child.path, 'from-a'), 'utf8'), 'a');
      assert.equal(await h.driver.release(b, 'box'), true);
      assert.equal(await h.driver.release(b, 'box'), false, 'one too many takes nothing from others');
      assert.equal(await h.driver.isMounted(b), true);
      assert.equal(await h.driver.release(b, 'other'), true);
      assert.equal(await h.driver.isMounted(b), false);
      assert.equal(await h.driver.release(id('absent'), 'x'), false);
    });

    test('mount() is counted over several processes (D3b)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      await using child = await mountInChild(h, b);
      const mine = await h.driver.mount(b);
      assert.equal(mine.path, child.path);
      await child.dispose();
      assert.equal(await h.driver.isMounted(b), true);
      assert.equal(readFileSync(below(mine.path, 'from-a'), 'utf8'), 'a');
      await mine[Symbol.asyncDispose]();
      assert.equal(await h.driver.isMounted(b), false);
      await child.kill();
    });

    test('a hold ends with its process; the next comer clears up (D3b)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      await using child = await mountInChild(h, b);
      writeFileSync(below(child.path, 'written'), 'x');
      await rejects(h.driver.remove(b), 'busy', new RegExp(`process ${child.process.pid} `));
      await child.kill();
      assert.equal(await h.driver.release(b, 'nobody'), false);
      assert.equal(await h.driver.isMounted(b), false);
      await using mounted = await h.driver.mount(b);
      assert.equal(readFileSync(below(mounted.path, 'written'), 'utf8'), 'x');
    });

    test('remove() succeeds when the layer is absent, and takes everything of it away (O14)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await h.driver.create(a, { writable: false });
      const was = dump(h.driver.home);
      await h.driver.create(id('lone'), { writable: true });
      {
        await using mounted = await h.driver.mount(id('lone'));
        writeFileSync(below(mounted.path, 'f'), 'x');
      }
      await h.driver.mount(id('lone'), { holdName: 'box' });
      await h.driver.remove(id('lone'));
      await h.driver.remove(id('lone'));
      assert.equal(await h.driver.has(id('lone')), false);
      assert.equal(await h.driver.isMounted(id('lone')), false);
      assert.deepEqual(dump(h.driver.home), was);
    });

    test('remove() answers busy and removes nothing while a process holds the layer (O14)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      const mounted = await h.driver.mount(b);
      await rejects(h.driver.remove(b), 'busy');
      assert.equal(readFileSync(below(mounted.path, 'from-a'), 'utf8'), 'a');
      await mounted[Symbol.asyncDispose]();
      await h.driver.remove(b);
      assert.deepEqual(await h.driver.list(), ['a']);
    });

    test('seal() syncs once for many layers, and can be done twice (D2)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      await h.driver.seal([a, b]);
      await h.driver.seal([b]);
      assert.equal(h.perform.done.filter((what) => what === 'sync').length, 2);
      for (const plan of await h.driver.mounts(b)) {
        assert.equal(
          plan.type === 'bind' ? plan.readonly : plan.upper === undefined,
          true,
          'a sealed layer is planned read-only',
        );
      }
      await rejects(h.driver.seal([id('absent')]), 'not-found');
    });

    test('mounts() plans and touches nothing', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      const was = dump(h.settings.home);
      const [plan] = await h.driver.mounts(b);
      const [readonly] = await h.driver.mounts(b, { readonly: true });
      assert.ok(plan !== undefined && readonly !== undefined);
      assert.equal(readonly.type === 'bind' ? readonly.readonly : readonly.upper === undefined, true);
      assert.deepEqual(dump(h.settings.home), was);
      await rejects(h.driver.mounts(id('absent')), 'not-found');
    });

    test('reading() is what content(), parent() and mounts() answer, and touches nothing', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      const was = dump(h.settings.home);
      for (const options of [{}, { mode: { redirect: 'on', metacopy: 'on' } }] as const) {
        for (const layer of [b, a, b]) {
          assert.deepEqual(await h.driver.reading(layer, options), {
            content: { ...(await h.driver.content(layer)), lowers: [] },
            parent: await h.driver.parent(layer),
            mounts: await h.driver.mounts(layer, { ...options, readonly: true }),
          });
        }
      }
      assert.deepEqual(dump(h.settings.home), was);
      await rejects(h.driver.reading(id('absent')), 'not-found');
      await rejects(h.driver.reading('../b' as LayerId), 'invalid-argument');
    });

    test('opening a home again writes nothing; a mode that somebody changed is what it was again', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      const { home, run } = h.settings;
      const all: string[] = [home, run, ...['holds', 'locks', 'detached'].map((name) => `${run}/${name}`)];
      const changed = (): bigint[] => all.map((path) => statSync(path, { bigint: true }).ctimeNs);
      const reopen = async (): Promise<void> => {
        await using _ = await open(h.settings);
      };
      await reopen();
      const was = changed();
      await reopen();
      assert.deepEqual(changed(), was);
      for (const path of all) {
        const { mode, uid, gid } = statSync(path);
        for (const spoil of [
          () => chmodSync(path, 0o777),
          () => chownSync(path, 12, gid),
          () => chownSync(path, uid, 34),
        ]) {
          spoil();
          await reopen();
          const now = statSync(path);
          assert.deepEqual([now.mode, now.uid, now.gid], [mode, uid, gid], path);
        }
      }
    });

    test('a home passes no access list on, also where its directory had a default one', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      const { home } = h.settings;
      const inherited = 'system.posix_acl_default' as ByteString;
      const all = [home, ...readdirSync(home).map((name) => `${home}/${name}` as ByteString)];
      for (const path of all) if (statSync(path).isDirectory()) lsetxattr(path, inherited, DEFAULT_ACL);
      await using driver = await open(h.settings);
      await driver.create(a, { writable: true });
      const { root } = await driver.content(a);
      for (const path of [...all, root]) assert.equal(lgetxattr(path, inherited), undefined, path);
      assert.deepEqual(llistxattr(root).filter(keepXattr), []);
    });

    test('a writable layer shows the root of what it stands on, its access list too', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await h.driver.create(a, { writable: true });
      const { root } = await h.driver.content(a);
      chmodSync(root, 0o750);
      const list = 'system.posix_acl_access' as ByteString;
      lsetxattr(root, list, DEFAULT_ACL); // the mask, and so the mode's group, is more than the group may
      await h.driver.create(b, { parent: a, writable: true });
      await using mounted = await h.driver.mount(b);
      assert.deepEqual(lgetxattr(mounted.path, list), DEFAULT_ACL);
      assert.equal(statSync(mounted.path).mode, statSync(root).mode);
    });

    test('content() and metadata() of an absent layer are not-found', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      for (const call of ['content', 'metadata', 'parent', 'mount'] as const) {
        await rejects(h.driver[call](id('absent')), 'not-found');
      }
    });

    test('directories of the home are not for others, layer roots are 0755, whatever the umask (D10)', async (t) => {
      for (const umask of [0o000, 0o077, 0o777]) {
        const before = process.umask(0o022);
        try {
          await using h = await house(t, { root: `-${umask}` });
          if (h === undefined) return;
          process.umask(umask);
          await h.driver.create(a, { writable: false });
          await h.driver.create(b, { parent: a, writable: true });
          const { root } = await h.driver.content(b);
          assert.equal(statSync(toBytes(root)).mode & 0o7777, 0o755);
          assert.equal(statSync(toBytes(h.driver.home)).mode & 0o7777, 0o710);
          process.umask(0o022);
        } finally {
          process.umask(before);
        }
      }
    });

    test('opening gives the home its mode again (D10)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      chmodSync(toBytes(h.driver.home), 0o777);
      await open(h.settings);
      assert.equal(statSync(toBytes(h.driver.home)).mode & 0o7777, 0o710);
    });

    test('the home is for the group of the mapped root, whose layer roots are, at every opening (D10, O3, O8)', async (t) => {
      await using h = await house(t, { idMaps: MAPPED });
      if (h === undefined) return;
      const { home } = h.driver;
      const owner = (path: ByteString): number[] => {
        const { uid, gid } = statSync(toBytes(path));
        return [uid, gid];
      };
      await h.driver.create(a, { writable: false });
      await h.driver.create(b, { parent: a, writable: true });
      spawnSync('chown', ['1:2', toBytes(home).toString()]);
      await open(h.settings);
      assert.deepEqual(owner(home), [0, 200_000]);
      for (const layer of [a, b]) {
        assert.deepEqual(owner((await h.driver.content(layer)).root), [100_000, 200_000], layer);
        for (const readonly of [true, false]) {
          await using mounted = await h.driver.mount(layer, { readonly });
          assert.deepEqual(owner(mounted.path), [100_000, 200_000], layer);
        }
      }
    });

    test('create() of a child keeps mode and owner of the root (O8)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await h.driver.create(a, { writable: false });
      const { root } = await h.driver.content(a);
      chmodSync(toBytes(root), 0o1777);
      spawnSync('chown', ['12:34', toBytes(root).toString()]);
      await h.driver.create(b, { parent: a, writable: true });
      await using mounted = await h.driver.mount(b);
      const stat = statSync(toBytes(mounted.path));
      assert.deepEqual([stat.mode & 0o7777, stat.uid, stat.gid], [0o1777, 12, 34]);
    });

    test('a layer lives below a root of any name: comma, colon, backslash, space, newline, no UTF-8', async (t) => {
      await using h = await house(t, { root: ',lower:dir=\\x \n"q' });
      if (h === undefined) return;
      await using odd = await openHouse(`${h.settings.home}/../\xff\xfe,x` as ByteString, open);
      for (const one of [h, odd]) {
        await family(one);
        await using mounted = await one.driver.mount(b);
        writeFileSync(below(mounted.path, 'from-b'), 'b');
        assert.equal(readFileSync(below(mounted.path, 'from-a'), 'utf8'), 'a');
        assert.equal(readFileSync(below((await one.driver.content(b)).root, 'from-b'), 'utf8'), 'b');
      }
    });

    test('create() takes size=0 for a writable layer and refuses every other option (O9)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      const was = dump(h.driver.home);
      await rejects(h.driver.create(a, { writable: false, settings: { size: '0' } }), 'invalid-argument', /size/);
      await rejects(h.driver.create(a, { writable: true, settings: { size: 'big' } }), 'invalid-argument', /size=big/);
      await rejects(h.driver.create(a, { writable: true, settings: { colour: 'red' } }), 'invalid-argument', /colour/);
      await rejects(h.driver.create(a, { writable: true, settings: { size: '10G' } }), 'unsupported', /quota/);
      assert.deepEqual(dump(h.driver.home), was);
      await h.driver.create(a, { writable: true, settings: { size: '0' } });
    });

    test('opening refuses options it cannot read, naming driver and option, before it makes anything (D1)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      const home = `${h.settings.home}-2` as ByteString;
      for (const option of [`${name}.colour=red`, `${name}.size`, `${name}.size=big`, '=x']) {
        await rejects(
          open({ ...h.settings, home, options: [option] }),
          'invalid-argument',
          new RegExp(`${name} option.*${option}`),
        );
      }
      assert.equal(existsSync(toBytes(home)), false);
      await open({ ...h.settings, home, options: [`${name.toUpperCase()}.SIZE=0`] });
    });

    test('an aborted call rejects with the reason of its signal and leaves nothing', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      const was = dump(h.driver.home);
      const reason = new Error('enough');
      const signal = AbortSignal.abort(reason);
      const same = (error: unknown): boolean => error === reason;
      await assert.rejects(h.driver.create(id('c'), { parent: b, writable: true, signal }), same);
      await assert.rejects(h.driver.mount(b, { signal }), same);
      await using blocked = await block(h, b);
      const waiting = new AbortController();
      const call = h.driver.mount(b, { signal: waiting.signal });
      setTimeout(() => waiting.abort(reason), 30);
      await assert.rejects(call, same);
      await blocked.end();
      assert.deepEqual(dump(h.driver.home), was);
      assert.equal(await h.driver.isMounted(b), false);
    });

    test('many operations at once: one id is served in turn, one creator wins (D2)', async (t) => {
      await using h = await house(t);
      if (h === undefined) return;
      await family(h);
      const made = await Promise.allSettled(
        Array.from({ length: 8 }, () => h.driver.create(id('c'), { parent: a, writable: true })),
      );
      assert.equal(made.filter(({ status }) => status === 'fulfilled').length, 1);
      await Promise.all(
        Array.from({ length: 20 }, (_, n) => h.driver.create(id(`n${n}`), { parent: a, writable: true })),
      );
      const mounted = await Promise.all(Array.from({ length: 8 }, () => h.driver.mount(b)));
      await Promise.all(mounted.map((one) => one[Symbol.asyncDispose]()));
      assert.equal(await h.driver.isMounted(b), false);
    });

    diffDuties(house);
  });
}

/** Ids that are not the host's own: users from 100,000 on, groups from 200,000. */
export const MAPPED: IdMaps = {
  uid: [{ container: 0, host: 100_000, size: 65_536 }],
  gid: [{ container: 0, host: 200_000, size: 65_536 }],
};

/** A base `a` with a file, and a writable `b` on it. */
export async function family(h: House): Promise<void> {
  await h.driver.create(id('a'), { writable: false });
  writeFileSync(below((await h.driver.content(id('a'))).root, 'from-a'), 'a');
  await h.driver.create(id('b'), { parent: id('a'), writable: true });
}

/** Another process that has the lock of a layer. */
async function block(h: House, layer: LayerId): Promise<AsyncDisposable & { end(): Promise<void> }> {
  const file = `${h.settings.run}/locks/${layer}`;
  const child = spawn('flock', ['--no-fork', file, 'sh', '-c', 'echo; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  const end = async (): Promise<void> => {
    if (child.signalCode !== null || child.exitCode !== null) return;
    child.kill('SIGKILL');
    await once(child, 'exit');
  };
  return { end, [Symbol.asyncDispose]: end };
}

/** Asserts a rejection with that code, and a message that matches. */
export async function rejects(call: Promise<unknown>, code: string, message: RegExp = /^Cannot /): Promise<void> {
  await assert.rejects(call, (error: unknown) => {
    assert.ok(isStorageError(error), String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  });
}
