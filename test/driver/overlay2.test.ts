import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ByteString, fromText, toBytes } from '../../src/base/bytes.ts';
import { StorageError } from '../../src/base/errors.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import { readMountInfo } from '../../src/linux/mountinfo.ts';
import { overlayData } from '../../src/mount/overlay-options.ts';
import { below, dump, type House, id, mountInChild, type Open, openHouse } from '../contract/driver-house.ts';
import { driverSuite, family, onFilesystems, rejects } from '../contract/driver-suite.ts';
import { need } from '../kit/require.ts';
import { scratch } from '../kit/scratch.ts';

const open: Open = (settings) => openLayerDriver('overlay2', settings);

driverSuite('overlay2', open);

onFilesystems('overlay2', open, (house, kind) => {
  const a = id('a');
  const b = id('b');
  const c = id('c');

  test('opening leaves no probe, marks a home of its own and sets the modes of home and l (O1, O3)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    assert.deepEqual(readdirSync(toBytes(h.driver.home)).sort(), ['.layerstore', 'l']);
    assert.equal(mode(h, 'l'), 0o700);
    const parent = toBytes(h.driver.home.replace(/\/home$/, '') as ByteString);
    assert.deepEqual(readdirSync(parent).sort(), ['home', 'run']);
  });

  test('opening does not mark or sweep a home of another (D2)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    rmSync(below(h.driver.home, '.layerstore'));
    mkdirSync(below(h.driver.home, '.removing-x'));
    const was = dump(h.driver.home);
    const driver = await open(h.settings);
    assert.deepEqual((await driver.list()).sort(), ['a', 'b']);
    assert.deepEqual(dump(h.driver.home), was);
  });

  test('opening clears up what kills left in a home of its own (D2)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const was = dump(h.driver.home);
    const { home } = h.driver;
    for (const name of ['.tmp-1', '.removing-2', '.layerstore-probe-3'])
      mkdirSync(below(home, `${name}/d/e`), { recursive: true });
    symlinkSync('../gone/diff', below(home, `l/${'A'.repeat(26)}`));
    symlinkSync('../b/diff', below(home, `l/${'B'.repeat(26)}`));
    mkdirSync(below(home, '.layerstore-probe-3/merged'));
    spawnSync('mount', ['-t', 'tmpfs', 'layerstore-test', below(home, '.layerstore-probe-3/merged').toString()]);
    await open(h.settings);
    assert.deepEqual(dump(home), was);
  });

  test('sweep() deletes what a killed removal had set aside, its link too (D2)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    await h.driver.seal([b]);
    const was = dump(h.driver.home);
    const { home } = h.driver;
    await h.driver.create(c, { parent: b, writable: true });
    renameSync(below(home, 'c'), below(home, '.removing-x'));
    await h.driver.sweep();
    assert.deepEqual(dump(home), was);
  });

  test('status() tells what Docker shows, in its order (O6)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    const backing = kind === 'ext4' ? 'extfs' : 'tmpfs';
    assert.deepEqual((await h.driver.status()).slice(0, 4), [
      ['Backing Filesystem', backing],
      ['Supports d_type', 'true'],
      ['Native Overlay Diff', 'true'],
      ['userxattr', 'false'],
    ]);
  });

  test('create() writes the files of Docker with its modes, whatever the umask (O8)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    const before = process.umask(0o177);
    try {
      await family(h);
      await h.driver.create(c, { parent: b, writable: true });
    } finally {
      process.umask(before);
    }
    const { home } = h.driver;
    const link = (name: string): string => readFileSync(below(home, `${name}/link`), 'latin1');
    assert.match(link('c'), /^[A-Z2-7]{26}$/);
    assert.equal(readFileSync(below(home, 'c/lower'), 'latin1'), `l/${link('b')}:l/${link('a')}`);
    assert.equal(existsSync(below(home, 'a/lower')), false);
    assert.equal(existsSync(below(home, 'a/work')), false);
    assert.deepEqual(readdirSync(below(home, 'c')).sort(), ['diff', 'link', 'lower', 'work']);
    assert.equal(readFileSync(below(home, 'b/committed'), 'latin1'), '');
    assert.ok(dump(home).some((line) => line.startsWith(`${home}/l/${link('a')} `) && line.endsWith(' ../a/diff')));
    const modes = {
      c: 0o710,
      'c/diff': 0o755,
      'c/work': 0o700,
      'c/link': 0o644,
      'c/lower': 0o644,
      'a/committed': 0o600,
    };
    for (const [name, expected] of Object.entries(modes)) assert.equal(mode(h, name), expected, name);
  });

  test('create() makes 128 lowers, which mount through the relative route; one more is too deep (O8, O11)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    let parent = await chain(h, 128);
    await h.driver.create(id('top'), { parent, writable: true });
    const [plan] = await h.driver.mounts(id('top'));
    assert.ok(plan?.type === 'overlay' && plan.lower.length === 128 && overlayData(plan).length > 4095);
    const cwd = process.cwd();
    {
      await using mounted = await h.driver.mount(id('top'));
      for (const n of [0, 64, 127]) assert.equal(readFileSync(below(mounted.path, `f${n}`), 'utf8'), String(n));
      writeFileSync(below(mounted.path, 'new'), 'x');
      assert.equal(process.cwd(), cwd);
    }
    assert.equal(readFileSync(below((await h.driver.content(id('top'))).root, 'new'), 'utf8'), 'x');
    parent = id('top');
    const was = dump(h.driver.home);
    await rejects(
      h.driver.create(id('deeper'), { parent, writable: true }),
      'failed-precondition',
      /max depth exceeded/,
    );
    assert.deepEqual(dump(h.driver.home), was);
  });

  test('mount() tells both sizes when not even the relative paths fit a page (O11)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    const parent = await chain(h, 128);
    const long = id('x'.repeat(255));
    await h.driver.create(long, { parent, writable: true });
    await rejects(
      h.driver.mount(long),
      'failed-precondition',
      /options are \d+ bytes, \d+ with paths .* one page holds 4095/,
    );
    assert.equal(existsSync(toBytes((await h.driver.metadata(long)).merged)), false);
    assert.equal(await h.driver.isMounted(long), false);
  });

  test('metadata() resolves the links, top first; a lost link or diff is corrupt (O7)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    await h.driver.create(c, { parent: b, writable: true });
    const { home } = h.driver;
    assert.deepEqual(await h.driver.metadata(c), {
      upper: `${home}/c/diff`,
      lower: [`${home}/b/diff`, `${home}/a/diff`],
      work: `${home}/c/work`,
      merged: `${home}/c/merged`,
    });
    assert.deepEqual((await h.driver.content(c)).lowers, [`${home}/b/diff`, `${home}/a/diff`]);
    spawnSync('mv', [`${home}/a/diff`, `${home}/a/lost`]);
    for (const call of ['metadata', 'content', 'mounts', 'mount'] as const)
      await rejects(h.driver[call](c), 'corrupt', /not there/);
    await h.driver.remove(a);
    await rejects(h.driver.metadata(c), 'corrupt', /no such symbolic link|not there/);
  });

  test('tampered files are corrupt, never joined (D2b)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const { home } = h.driver;
    const link = readFileSync(below(home, 'a/link'), 'latin1');
    const file = below(home, 'b/lower');
    const was = readFileSync(file, 'latin1');
    for (const bad of [
      '',
      'l/',
      '/etc',
      `l/${link}:`,
      `l/${link}\n`,
      `l/../a/diff`,
      `l/${'a'.repeat(26)}`,
      `${was},upperdir=/`,
    ]) {
      writeFileSync(file, bad);
      await rejects(h.driver.mount(b), 'corrupt', /lower/);
      await rejects(h.driver.parent(b), 'corrupt', /lower/);
      await rejects(h.driver.create(c, { parent: b, writable: true }), 'corrupt', /lower/);
    }
    writeFileSync(file, was);
    for (const target of ['/etc', '../../../etc/diff', '../a', '../.x/diff', '../a/diff/..']) {
      rmSync(below(home, `l/${link}`));
      symlinkSync(target, below(home, `l/${link}`));
      await rejects(h.driver.mount(b), 'corrupt', /leads to/);
    }
    writeFileSync(below(home, 'a/link'), '../../x');
    assert.deepEqual(await h.driver.list(), ['b']);
    await rejects(h.driver.content(a), 'corrupt', /link/);
    await h.driver.remove(a);
    assert.equal(existsSync(below(home, 'l')), true);
  });

  test('mount() of a base answers its directory; read-only it is bound so that nothing can be written (O10)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const { home } = h.driver;
    {
      await using mounted = await h.driver.mount(a);
      assert.equal(mounted.path, `${home}/a/diff`);
      await using view = await h.driver.mount(a, { readonly: true });
      assert.equal(view.path, `${home}/a/merged`);
      assert.equal(readFileSync(below(view.path, 'from-a'), 'utf8'), 'a');
      assert.throws(() => writeFileSync(below(view.path, 'no'), ''), { code: 'EROFS' });
    }
    assert.equal(existsSync(below(home, 'a/merged')), false);
    assert.deepEqual(await h.driver.mounts(a), [{ type: 'bind', source: `${home}/a/diff`, readonly: true }]);
  });

  test('mount() is read-only when the layer is committed or it is asked for (O10)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    {
      await using view = await h.driver.mount(b, { readonly: true });
      assert.throws(() => writeFileSync(below(view.path, 'no'), ''), { code: 'EROFS' });
      await rejects(h.driver.mount(b), 'busy', /read-only by process/);
    }
    await using writable = await h.driver.mount(b);
    assert.equal(statSync(below(h.driver.home, 'b/merged')).mode & 0o7777, 0o755, 'the root of the layer is seen');
    await rejects(h.driver.seal([b]), 'busy');
    await writable[Symbol.asyncDispose]();
    await h.driver.seal([b]);
    await using sealed = await h.driver.mount(b);
    assert.equal(readFileSync(below(sealed.path, 'from-a'), 'utf8'), 'a');
    assert.throws(() => writeFileSync(below(sealed.path, 'no'), ''), { code: 'EROFS' });
  });

  test('mounts() says the options in the order of Docker (O10)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const { home } = h.driver;
    const [plan] = await h.driver.mounts(b, { label: 'system_u:object_r:svirt_t:s0' });
    assert.ok(plan?.type === 'overlay');
    const label = existsSync('/sys/fs/selinux/enforce') ? ',context="system_u:object_r:svirt_t:s0"' : '';
    const dirs = `lowerdir=${home}/a/diff,upperdir=${home}/b/diff,workdir=${home}/b/work`;
    assert.equal(overlayData(plan), `index=off,${dirs}${label}`);
  });

  test('mount() that fails gives everything back: mount, hold and mount point (D4)', async (t) => {
    await using h = await house(t, {
      perform: (real) => ({
        ...real,
        // The mount is made and then something fails, as the chown of work/work might.
        mount: async (plan, target) => {
          await real.mount(plan, target);
          if (target.endsWith('/b/merged')) throw new StorageError('internal', 'Cannot go on');
        },
      }),
    });
    if (h === undefined) return;
    await family(h);
    const was = dump(h.driver.home).filter((line) => !line.includes('/work/'));
    await rejects(h.driver.mount(b), 'internal');
    assert.deepEqual(
      dump(h.driver.home).filter((line) => !line.includes('/work/')),
      was,
    );
    assert.deepEqual(readdirSync(below(h.settings.run, 'holds')), []);
  });

  test('disposal of a busy mount rejects with the holder named; mount and hold stay, and it can be tried again (O13)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const mounted = await h.driver.mount(b);
    const child = spawn('sleep', ['60'], { cwd: toBytes(mounted.path).toString() });
    await once(child, 'spawn');
    const names = new RegExp(`process ${child.pid} \\("sleep 60"\\): its working directory`);
    await rejects(mounted[Symbol.asyncDispose](), 'busy', names);
    await rejects(h.driver.cleanup(), 'busy', names);
    assert.equal(readFileSync(below(mounted.path, 'from-a'), 'utf8'), 'a');
    assert.equal(await h.driver.isMounted(b), true);
    child.kill('SIGKILL');
    await once(child, 'exit');
    await mounted[Symbol.asyncDispose]();
    assert.equal(await h.driver.isMounted(b), false);
  });

  test('release() names who has a file open or a mount inside; with detach it goes all the same, with a note (O13)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const { path } = await h.driver.mount(b, { holdName: 'box' });
    const inside = below(path, 'inside').toString();
    mkdirSync(inside);
    spawnSync('mount', ['-t', 'tmpfs', 'layerstore-test', inside]);
    await rejects(h.driver.release(b, 'box'), 'busy', /the mount on ".*\/inside"/);
    spawnSync('umount', [inside]);
    const child = spawn('sh', ['-c', 'exec 7>open; cd /; echo; exec sleep 60'], { cwd: toBytes(path).toString() });
    await once(child.stdout, 'data');
    await rejects(h.driver.release(b, 'box'), 'busy', new RegExp(`process ${child.pid} .*: open file ".*/open"`));
    await rejects(h.driver.remove(b), 'busy', new RegExp(`process ${child.pid} `));
    assert.equal(await h.driver.has(b), true);
    assert.equal(await h.driver.release(b, 'box', { detach: true }), true);
    assert.equal(await h.driver.isMounted(b), false);
    assert.match(readFileSync(below(h.settings.run, 'detached/b'), 'latin1'), /^since .*\npid \d+\ndevice 0:\d+\n$/);
    child.kill('SIGKILL');
    await once(child, 'exit');
  });

  test('a process in its own mount namespace that sits in its copy of the mount is named too (O13)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const [disk = ''] = spawnSync('findmnt', ['-no', 'TARGET', '-T', h.driver.home], { encoding: 'utf8' }).stdout.split(
      '\n',
    );
    spawnSync('mount', ['--make-shared', disk]);
    const mounted = await h.driver.mount(b);
    const cwd = toBytes(mounted.path).toString();
    // Its working directory becomes one of the copy: the slave gets the unmount, and the kernel asks the slave first.
    const child = spawn('unshare', ['-m', '--propagation', 'slave', 'sh', '-c', 'echo; exec sleep 60'], { cwd });
    await once(child.stdout, 'data');
    await rejects(mounted[Symbol.asyncDispose](), 'busy', new RegExp(`process ${child.pid} .*its working directory`));
    child.kill('SIGKILL');
    await once(child, 'exit');
    await mounted[Symbol.asyncDispose]();
  });

  test('a hold whose mount is gone is reported once and dropped (D3b)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const mounted = await h.driver.mount(b, { holdName: 'box' });
    spawnSync('umount', [toBytes(mounted.path).toString()]);
    assert.equal(await h.driver.isMounted(b), false);
    assert.equal(await h.driver.release(b, 'box'), false);
    assert.equal(await h.driver.release(b, 'box'), false);
    const warned = h.said.filter((line) => line.startsWith('warn') && line.includes('not mounted any more'));
    assert.equal(warned.length, 1);
    const mine = await h.driver.mount(b);
    spawnSync('umount', [toBytes(mine.path).toString()]);
    await using again = await h.driver.mount(b);
    assert.equal(readFileSync(below(again.path, 'from-a'), 'utf8'), 'a');
    await mine[Symbol.asyncDispose](); // takes nothing from the other
    assert.equal(readFileSync(below(again.path, 'from-a'), 'utf8'), 'a');
  });

  test('only a mount that never had a hold is adopted as one (D3, D3b)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const { merged } = await h.driver.metadata(b);
    const [plan] = await h.driver.mounts(b);
    mkdirSync(toBytes(merged));
    if (plan !== undefined) await h.perform.mount(plan, merged);
    {
      await using mounted = await h.driver.mount(b);
      assert.equal(readMountInfo().filter(({ mountPoint }) => mountPoint === mounted.path).length, 1);
    }
    assert.equal(await h.driver.isMounted(b), true, 'whoever mounted it still has it');
    assert.equal(await h.driver.release(b, 'docker'), true);
    assert.equal(await h.driver.isMounted(b), false);
    assert.equal(existsSync(toBytes(merged)), false);
  });

  test('what is mounted on a mount point by others is not touched', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const { merged } = await h.driver.metadata(b);
    mkdirSync(toBytes(merged));
    spawnSync('mount', ['-t', 'tmpfs', 'layerstore-test', toBytes(merged).toString()]);
    await rejects(h.driver.mount(b), 'failed-precondition', /layerstore-test/);
    await h.driver.cleanup();
    assert.ok(readMountInfo().some(({ mountPoint }) => mountPoint === merged));
    spawnSync('umount', [toBytes(merged).toString()]);
  });

  test('a mount whose holders died in use is joined, and unmounted by the last who lets go (D3b)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    await using child = await mountInChild(h, b);
    const user = spawn('sleep', ['60'], { cwd: toBytes(child.path).toString() });
    await once(user, 'spawn');
    await child.kill();
    const mounted = await h.driver.mount(b);
    user.kill('SIGKILL');
    await once(user, 'exit');
    assert.equal(readFileSync(below(mounted.path, 'from-a'), 'utf8'), 'a');
    await mounted[Symbol.asyncDispose]();
    assert.equal(await h.driver.isMounted(b), false);
  });

  test('a writable mount is busy while another mount namespace has the layer, not longer (D3b)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    {
      await using child = await mountInChild(h, b, {}, ['unshare', '-m', '--propagation', 'private']);
      assert.equal(existsSync(below(child.path, 'from-a')), false);
      assert.equal(await h.driver.isMounted(b), true);
      await rejects(h.driver.mount(b), 'busy', /another mount namespace/);
      await rejects(h.driver.remove(b), 'busy', /process/);
      await child.kill();
    }
    // Named, and its namespace gone with its process: the mount is gone as well.
    await using named = await mountInChild(h, b, { holdName: 'box' }, ['unshare', '-m', '--propagation', 'private']);
    await rejects(h.driver.mount(b), 'busy', /hold "box"/);
    await rejects(h.driver.release(b, 'box'), 'busy', /nsenter/);
    await named.kill();
    await using mounted = await h.driver.mount(b);
    assert.equal(readFileSync(below(mounted.path, 'from-a'), 'utf8'), 'a');
  });

  test('cleanup() unmounts what the driver mounted below its home and nothing else (O17)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    await h.driver.create(c, { parent: a, writable: true });
    await h.driver.mount(b, { holdName: 'x' });
    const lost = await h.driver.mount(c);
    await h.driver.mount(a, { holdName: 'y', readonly: true });
    mkdirSync(below(h.driver.home, 'other'));
    const other = below(h.driver.home, 'other').toString();
    spawnSync('mount', ['-t', 'tmpfs', 'layerstore-test', other]);
    await using child = await mountInChild(h, c);
    await rejects(h.driver.cleanup(), 'busy', new RegExp(`process ${child.process.pid} `));
    assert.deepEqual(mountsBelow(h), [`${h.driver.home}/c/merged`, other]);
    await child.dispose();
    await h.driver.cleanup();
    assert.deepEqual(mountsBelow(h), [other]);
    await lost[Symbol.asyncDispose]();
    assert.deepEqual(readdirSync(below(h.settings.run, 'holds')), []);
    spawnSync('umount', [other]);
  });

  test('remove() leaves l as it is when the link file cannot be read (O14)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    const other = readFileSync(below(h.driver.home, 'a/link'), 'latin1');
    for (const bad of ['', '.', '..', '../l', other]) {
      await h.driver.create(c, { parent: a, writable: true });
      writeFileSync(below(h.driver.home, 'c/link'), bad);
      await h.driver.remove(c);
      assert.equal(await h.driver.has(c), false);
    }
    assert.equal((await h.driver.mounts(b)).length, 1);
  });

  test('create() on a parent that is mounted for writing is done with a warning (D2)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    await family(h);
    await using mounted = await h.driver.mount(b);
    await h.driver.create(c, { parent: b, writable: true });
    assert.ok(existsSync(toBytes(mounted.path)));
    assert.equal(h.said.filter((line) => line.startsWith('warn') && line.includes('becomes the parent')).length, 1);
  });
});

describe('overlay2', () => {
  test('opening is not supported where overlay does not mount, and makes nothing (O1)', async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using dir = await scratch('nested');
    const root = `${dir.path}/merged`;
    for (const name of ['l1', 'u', 'w', 'merged']) mkdirSync(`${dir.path}/${name}`);
    const data = `lowerdir=${dir.path}/l1,upperdir=${dir.path}/u,workdir=${dir.path}/w`;
    assert.equal(spawnSync('mount', ['-t', 'overlay', 'overlay', '-o', data, root]).status, 0);
    try {
      // An overlay cannot be the upper of another (Documentation/filesystems/overlayfs.rst).
      await rejects(
        openHouse(fromText(root), open, { run: fromText(`${dir.path}/run`) }),
        'unsupported',
        /does not mount on overlayfs/,
      );
      assert.deepEqual(readdirSync(root), []);
    } finally {
      spawnSync('umount', [root]);
    }
  });

  test('kill -9 of a process at any time while it makes and removes layers leaves nothing that opening does not clear (D4)', async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using dir = await scratch('kill');
    await using h = await openHouse(fromText(dir.path), open);
    await h.driver.create(id('base'), { writable: false });
    const file = new URL('./churn.ts', import.meta.url).pathname;
    for (let round = 0; round < 6; round++) {
      const child = spawn(process.execPath, [file, h.driver.home, h.settings.run], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      await once(child.stdout, 'data');
      await sleep(5 + round * 17);
      child.kill('SIGKILL');
      await once(child, 'exit');
      const driver = await open(h.settings);
      for (const layer of await driver.list()) {
        await using mounted = await driver.mount(layer);
        assert.ok(existsSync(toBytes(mounted.path)));
      }
      const { home } = driver;
      const links = readdirSync(below(home, 'l'));
      assert.equal(links.length, (await driver.list()).length, 'a link for each layer');
      for (const layer of await driver.list()) if (layer !== 'base') await driver.remove(layer);
      assert.deepEqual(readdirSync(toBytes(home)).sort(), ['.layerstore', 'base', 'l']);
    }
  });
});

function mode(h: House, name: string): number {
  return statSync(below(h.driver.home, name)).mode & 0o7777;
}

function mountsBelow(h: House): string[] {
  const all = readMountInfo().map(({ mountPoint }) => mountPoint as string);
  return all.filter((path) => path.startsWith(`${h.driver.home}/`)).sort();
}

/** `length` layers one on the other, each with a file of its own; answers the top one. */
async function chain(h: House, length: number): Promise<ReturnType<typeof id>> {
  for (let n = 0; n < length; n++) {
    const parent = n === 0 ? {} : { parent: id(`layer${n - 1}`) };
    await h.driver.create(id(`layer${n}`), { ...parent, writable: false });
    writeFileSync(below(`${h.driver.home}/layer${n}/diff` as ByteString, `f${n}`), String(n));
  }
  return id(`layer${length - 1}`);
}
