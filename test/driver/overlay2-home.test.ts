import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { type ByteString, fromText, toBytes } from '../../src/base/bytes.ts';
import type { LayerId } from '../../src/base/values.ts';
import { openLayerDriver } from '../../src/driver/open.ts';
import { storageDriver } from '../../src/graph/storage-driver.ts';
import { openThreads } from '../../src/graph/threads.ts';
import { DOCKER_LAYERS, writeDockerHome } from '../contract/docker-home.ts';
import { below, dump, id, type Open, openHouse } from '../contract/driver-house.ts';
import { family, MAPPED, onFilesystems, rejects } from '../contract/driver-suite.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';

const open: Open = (settings) => openLayerDriver('overlay2', settings);
const b = id('b');

test('a filesystem that tells no types of entries takes no new home; an existing one opens with a warning (O2)', async (t) => {
  if (!need(t, 'root', 'mount', 'mkfs.ext4')) return;
  await using good = await filesystem('tmpfs', 64);
  await using bad = await filesystem('ext4', 64, ['-O', '^filetype']);
  const because = /does not tell the types of directory entries \(d_type\): deleted files would be seen/;
  const on = `${bad.path}/x`;
  mkdirSync(on);
  await rejects(openHouse(fromText(on), open, { run: fromText(`${good.path}/run`) }), 'unsupported', because);
  assert.deepEqual(readdirSync(on), []);
  mkdirSync(`${on}/home`);
  await rejects(openHouse(fromText(on), open, { run: fromText(`${good.path}/run`) }), 'unsupported', because);
  assert.deepEqual(readdirSync(`${on}/home`), []);
  {
    await using h = await openHouse(fromText(good.path), open);
    await family(h);
  }
  assert.equal(spawnSync('cp', ['-a', `${good.path}/home`, on]).status, 0);
  await using h = await openHouse(fromText(on), open);
  const warned = h.said.filter((line) => line.startsWith('warn'));
  assert.equal(warned.length, 1);
  assert.match(warned[0] as string, because);
  assert.deepEqual((await h.driver.status())[1], ['Supports d_type', 'false']);
  {
    await using mounted = await h.driver.mount(b);
    assert.deepEqual(readdirSync(toBytes(mounted.path)), ['from-a']);
  }
  await h.driver.remove(b);
  assert.deepEqual(await h.driver.list(), ['a']);
});

onFilesystems('overlay2, a home with id maps', open, (house) => {
  test('layer, diff, work, merged and work/work belong to the mapped root, as Docker has them (O3, O8, O10, O12)', async (t) => {
    await using h = await house(t, { idMaps: MAPPED });
    if (h === undefined) return;
    await family(h);
    const { home } = h.driver;
    await using mounted = await h.driver.mount(b);
    writeFileSync(below(mounted.path, 'f'), '');
    // Without the mount that is on it.
    const beside = `${home}-beside`;
    mkdirSync(beside);
    assert.equal(spawnSync('mount', ['--bind', `${home}/b`, beside]).status, 0);
    try {
      const looks = (path: ByteString): string => {
        const { mode, uid, gid } = statSync(toBytes(path));
        return `${(mode & 0o7777).toString(8)} ${uid}:${gid}`;
      };
      const found = {
        home: looks(home),
        layer: looks(`${home}/b` as ByteString),
        ...Object.fromEntries(
          ['diff', 'work', 'work/work', 'merged', 'diff/f'].map((name) => [
            name,
            looks(`${beside}/${name}` as ByteString),
          ]),
        ),
      };
      assert.deepEqual(found, {
        home: '710 0:200000',
        layer: '710 0:200000',
        diff: '755 100000:200000',
        work: '700 100000:200000',
        'work/work': '0 100000:200000',
        merged: '700 100000:200000',
        'diff/f': '644 0:0',
      });
    } finally {
      spawnSync('umount', [beside]);
    }
  });
});

onFilesystems('overlay2, a home that Docker wrote', open, (house) => {
  test('it opens, lists, mounts, takes a child, compares and removes; nothing else in it changes (O18, D2)', async (t) => {
    await using h = await house(t);
    if (h === undefined) return;
    const { base, image, init, container } = DOCKER_LAYERS;
    const { home } = h.settings;
    rmSync(toBytes(home), { recursive: true });
    writeDockerHome(home);
    const was = dump(home);
    await using threads = await openThreads(2);
    const scratch = `${home}-scratch` as ByteString;
    mkdirSync(toBytes(scratch));
    const driver = storageDriver(await open(h.settings), threads, scratch);
    assert.deepEqual((await driver.list()).sort(), [base, image, init, container].map(id).sort());
    assert.deepEqual(await driver.metadata(id(container)), {
      upper: `${home}/${container}/diff`,
      lower: [init, image, base].map((one) => `${home}/${one}/diff`),
      work: `${home}/${container}/work`,
      merged: `${home}/${container}/merged`,
    });
    const parents = await Promise.all([container, init, image, base].map((one) => driver.parent(id(one))));
    assert.deepEqual(parents, [init, image, base, undefined]);
    const changes = async (layer: LayerId, parent: LayerId | undefined): Promise<string[]> =>
      (await Array.fromAsync(driver.changes(layer, parent))).map(({ kind, path }) => `${kind} ${path}`);
    const ofImage = [
      'modify /etc',
      'delete /etc/gone',
      'add /etc/image',
      'modify /opt',
      'add /opt/new',
      'delete /opt/old',
    ];
    assert.deepEqual(await changes(id(image), id(base)), ofImage);
    assert.deepEqual(dump(home), was, 'reading leaves it as it was');

    const child = id('ours');
    for (const layer of [container, child]) {
      if (layer === child) await driver.create(child, { parent: id(image), writable: true });
      await using mounted = await driver.mount(id(layer));
      const shown = readdirSync(below(mounted.path, 'etc')).sort();
      assert.deepEqual(shown, layer === child ? ['base', 'image'] : ['base', 'container', 'image', 'init']);
      assert.deepEqual(readdirSync(below(mounted.path, 'opt')), ['new']);
      writeFileSync(below(mounted.path, 'etc/written'), 'written');
      assert.deepEqual(readFileSync(`${home}/${layer}/diff/etc/written`, 'utf8'), 'written');
    }
    {
      await using sealed = await driver.mount(id(image));
      assert.throws(() => writeFileSync(below(sealed.path, 'no'), ''), { code: 'EROFS' });
    }
    const link = (layer: string): string => readFileSync(`${home}/${layer}/link`, 'latin1');
    assert.equal(readFileSync(`${home}/ours/lower`, 'latin1'), `l/${link(image)}:l/${link(base)}`);
    assert.deepEqual(await changes(child, id(image)), ['modify /etc', 'add /etc/written']);
    assert.deepEqual(await changes(id(container), id(image)), [
      'modify /etc',
      ...['container', 'init', 'written'].map((name) => `add /etc/${name}`),
    ]);
    for (const layer of [child, id(container)]) await driver.remove(layer);
    assert.deepEqual(
      dump(home),
      was.filter((line) => !line.includes(`/${container}/`) && !line.startsWith(`${home}/${container} `)),
    );
  });
});
