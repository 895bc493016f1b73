import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { globSync, lstatSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { openStore, type Progress, toText } from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { directory, file, layer, ociImage, whiteout } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS, withStore } from '../kit/stores.ts';

const BASE = layer(directory('d'), file('d/a', 'a'), file('b', 'b'), file('c', 'c'));

/** Every inode of the images' layers, with all that a write would change. */
function inodesOf(home: string, ids: readonly string[]): string[] {
  return ids
    .flatMap((id) => [...globSync(`${home}/{${id}/diff,dir/${id}}/**`)])
    .map((path) => {
      const { ino, mode, uid, gid, size, mtimeNs, ctimeNs } = lstatSync(path, { bigint: true });
      return [path, ino, mode, uid, gid, size, mtimeNs, ctimeNs].join(' ');
    })
    .sort();
}

for (const driver of DRIVERS) {
  test(`a program that is started beside a store gets none of its descriptors (${driver})`, async (t) => {
    await withStore(t, driver, async (store) => {
      const inherited = (): string[] =>
        spawnSync('sh', ['-c', 'for fd in /proc/self/fd/*; do readlink "$fd"; done'], {
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'ignore'],
        })
          .stdout.split('\n')
          .filter((target) => target.startsWith('/') && target !== '/dev/null' && !target.startsWith('/proc/'));
      const seen: string[][] = [];
      const onProgress = (): void => void seen.push(inherited());
      await store.images.load([ociImage([BASE, layer(file('big', 'x'.repeat(3_000_000)))], 'base')] as never, {
        onProgress,
      });
      await using work = await store.layers.create('base:1');
      await using mounted = await work.mount();
      writeFileSync(join(toText(mounted.path), 'new'), 'new');
      seen.push(inherited());
      for await (const _ of work.diff()) seen.push(inherited());
      assert.ok(seen.length >= 4);
      assert.deepEqual(seen.flat(), []);
    });
  });

  test(`a store changes nothing outside of its root, a driver nothing outside of its home (invariant 1, ${driver})`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 64);
    const root = join(disk.path, 'store');
    {
      await using store = await openStore({ root, driver });
      await store.images.load([ociImage([BASE], 'first')] as never);
    }
    // Homes of other drivers and whatever somebody keeps there: theirs, also where they look like leftovers of ours.
    const others = [
      'aufs/diff/x-removing',
      'fuse-overlayfs/l',
      driver === 'vfs' ? 'overlay2/.removing-x' : 'vfs/dir/.removing-x',
    ];
    for (const other of [...others.map((path) => `store/${path}`), 'beside/.removing-x']) {
      mkdirSync(join(disk.path, other), { recursive: true });
      writeFileSync(join(disk.path, other, 'file'), other);
    }
    const seen = (): string[] =>
      globSync(['beside/**', 'store/{aufs,fuse-overlayfs}/**', `store/${driver === 'vfs' ? 'overlay2' : 'vfs'}/**`], {
        cwd: disk.path,
      })
        .map((path) => {
          const { ino, mode, uid, gid, size, mtimeNs, ctimeNs } = lstatSync(join(disk.path, path), { bigint: true });
          return [path, ino, mode, uid, gid, size, mtimeNs, ctimeNs].join(' ');
        })
        .concat(readdirSync(disk.path))
        .toSorted();
    const before = seen();
    assert.ok(before.length > 10);
    await using store = await openStore({ root });
    await store.images.load([ociImage([BASE, layer(whiteout('b'))], 'second')] as never);
    const work = await store.layers.create('second:1');
    {
      await using mounted = await work.mount();
      writeFileSync(join(toText(mounted.path), 'new'), 'new');
    }
    await work.commit('third:1');
    await store.images.remove('third:1');
    await work.remove();
    await store.upkeep.gc();
    await store.upkeep.check();
    assert.deepEqual(seen(), before);
  });

  test(`a committed layer's files are never written again, whatever becomes of its children (invariant 2, ${driver})`, async (t) => {
    await withStore(t, driver, async (store) => {
      await store.images.load([ociImage([BASE, layer(file('b', 'second'))], 'base')] as never);
      const { home } = store.driver;
      const ids = globSync(driver === 'vfs' ? `${home}/dir/*` : `${home}/*/diff`).map((path) =>
        driver === 'vfs' ? path.slice(home.length + 5) : path.slice(home.length + 1, -5),
      );
      assert.equal(ids.length, 2);
      const before = inodesOf(home, ids);
      assert.ok(before.length > 6);
      await using work = await store.layers.create('base:1');
      {
        await using mounted = await work.mount();
        const path = toText(mounted.path);
        writeFileSync(join(path, 'b'), 'changed');
        rmSync(join(path, 'd'), { recursive: true });
        writeFileSync(join(path, 'new'), 'new');
      }
      await work.commit('child:1');
      for await (const _ of store.images.save(['child:1'])) {
        // only read
      }
      await work.remove();
      await store.images.remove('child:1');
      assert.deepEqual(inodesOf(home, ids), before);
    });
  });

  test(`load() reports a media type that is not what the content is, and progress at most ten times a second (${driver})`, async (t) => {
    await withStore(t, driver, async (store) => {
      const mediaType = 'application/vnd.oci.image.layer.v1.tar+gzip';
      const seen: { readonly at: number; readonly step: string }[] = [];
      const onProgress = ({ step, layer: of }: Progress): void => {
        seen.push({ at: performance.now(), step: `${step} ${of}` });
      };
      const image = ociImage([{ tar: BASE, blob: BASE, mediaType }]);
      const [loaded] = await store.images.load([image] as never, { onProgress });
      assert.match(
        loaded?.notes.join('\n') ?? '',
        /^layer 1: its media type "application\/vnd.*\+gzip" is wrong: it is not compressed$/,
      );
      for (const step of new Set(seen.map((one) => one.step))) {
        const times = seen.filter((one) => one.step === step).map(({ at }) => at);
        assert.ok(
          times.length <= 2 + ((times.at(-1) as number) - (times[0] as number)) / 80,
          `${step}: ${times.length} reports`,
        );
      }
      assert.ok(seen.some(({ step }) => step.startsWith('unpack sha256:')));
    });
  });
}

test('openStore() and load() make paths absolute at the call: a later chdir changes nothing (hazard 8)', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  const before = process.cwd();
  process.chdir(disk.path);
  try {
    writeFileSync('image.tar', ociImage([BASE]));
    const opening = openStore({ root: 'store', driver: 'overlay2' });
    process.chdir('/');
    await using store = await opening;
    assert.equal(store.root, `${disk.path}/store`);
    process.chdir(disk.path);
    const loading = store.images.load('image.tar');
    process.chdir('/');
    assert.equal((await loading).length, 1);
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  } finally {
    process.chdir(before);
  }
});

test('images.load() takes a file that only deletes, on nothing: there is nothing to delete', async (t) => {
  await withStore(t, 'overlay2', async (store) => {
    const [image] = await store.images.load([ociImage([layer(whiteout('x'))])] as never);
    assert.equal(image?.diffIds.length, 1);
  });
});
