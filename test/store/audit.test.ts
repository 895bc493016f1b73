import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fromText } from '../../src/base/bytes.ts';
import { openStore, type Store } from '../../src/index.ts';
import { lremovexattr, lsetxattr } from '../../src/linux/xattr.ts';
import { filesystem } from '../kit/filesystems.ts';
import {
  device,
  directory,
  fifo,
  file,
  hardlink,
  layer,
  ociImage,
  opaque,
  symlink,
  whiteout,
} from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';

// `check --deep`: what a change behind the store's back is told as, and that what the store does itself is none.

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

const NS = 1_700_000_000_123_456_789n;
/** A named user may read: version 2, owner rw-, user 1000 r--, group r--, mask r--, others ---. */
const ACL = Buffer.from(
  '02000000' + '01000600ffffffff' + '02000400e8030000' + '04000400ffffffff' + '10000400ffffffff' + '20000000ffffffff',
  'hex',
);
const XATTRS = { 'user.a': 'b', 'system.posix_acl_access': ACL };

const BASE = layer(
  directory('./', { mode: 0o751, mtimeNs: NS }),
  directory('etc/', { mode: 0o2755, uid: 3, mtimeNs: NS, xattrs: { 'user.d': 'x', 'system.posix_acl_default': ACL } }),
  file('etc/f', 'content', { mode: 0o640, uid: 1, gid: 2, mtimeNs: NS, xattrs: XATTRS }),
  file('etc/suid', 'x', { mode: 0o4755, mtimeNs: -5n }),
  file('etc/empty', '', { mtimeNs: 2n ** 40n * 1_000_000_000n }),
  file('etc/trusted', '', { xattrs: { 'trusted.x': 'y', 'user.overlay.z': '1', 'security.selinux': 'l' } }),
  hardlink('etc/other-name', 'etc/f'),
  symlink('etc/link', '/etc/f', { uid: 7, mtimeNs: NS, xattrs: { 'user.refused': '1' } }),
  symlink('to-etc', 'etc'),
  file('to-etc/by-way-of-a-link', 'y'),
  device('null', 1, 3, { mtimeNs: NS }),
  device('zero-zero', 0, 0),
  fifo('fifo', { mtimeNs: NS }),
  file('implied/a/b', 'z'),
  directory('gone/'),
  file('gone/f', '1'),
  file('dropped'),
  directory('again/', { mode: 0o700 }),
  directory('again/', { mode: 0o711 }),
  file('.wh..wh.aufs'),
  file('sparse', 'xx', { sizeBytes: 100_000, sparse: [{ offset: 50_000, length: 2 }] }),
);
const TOP = layer(
  directory('etc/', { mtimeNs: NS + 1n }),
  file('etc/f', 'second', { mtimeNs: NS }),
  whiteout('dropped'),
  whiteout('of-nothing'),
  whiteout('implied/a/b'),
  whiteout('to-nowhere/x'),
  directory('gone/'),
  opaque('gone'),
  file('gone/new', 'n'),
  hardlink('copied-up', 'etc/suid'),
  file('implied/new'),
);

for (const driver of DRIVERS) {
  for (const kind of ['ext4', 'tmpfs'] as const) {
    test(`check() finds what was changed in a committed layer, each thing by its path (${driver}, ${kind})`, async (t) => {
      if (!need(t, 'root', 'mount', ...(kind === 'ext4' ? ['mkfs.ext4'] : []))) return;
      await using disk = await filesystem(kind, 64);
      await using store = await openStore({ root: join(disk.path, 'store'), driver, threads: 2 });
      await store.images.load(once(ociImage([BASE, TOP, layer(opaque(), file('only'))])));
      assert.deepEqual(await store.upkeep.check({ deep: true }), [], 'unchanged');
      const [base, top] = [treeOf(store, 'fifo'), treeOf(store, 'gone/new')];
      const vfs = driver === 'vfs';
      const wanted: Record<string, RegExp> = {};
      const change = (path: string, what: RegExp, deed: (path: string) => void, tree = base): void => {
        deed(join(tree, path));
        wanted[`${tree === base ? 'base' : 'top'} /${path}`] = what;
      };
      change('', /its modification time is \d+\.\d{9} instead of 1700000000\.123456789$/, () => {}); // by what follows
      change('etc/empty', /^its mode is 600 instead of 644$/, (path) => fs.chmodSync(path, 0o600));
      change('etc/trusted', /^its owner is 5 instead of 0, its group is 6 instead of 0$/, (path) =>
        fs.chownSync(path, 5, 6),
      );
      change('etc/suid', /^its mode is 755 instead of 4755$/, (path) => fs.chmodSync(path, 0o755));
      change('etc/f', /^its attribute "user.a" has another value$/, (path) => attribute(path, 'user.a', 'c'));
      change('etc/link', /^its owner is 8 instead of 7$/, (path) => fs.lchownSync(path, 8, 0));
      change('etc', /^its attribute "user.new" was not there$/, (path) => attribute(path, 'user.new', 'n'));
      change('sparse', /^its size is 99999 instead of 100000, its modification/, (path) =>
        fs.truncateSync(path, 99_999),
      );
      change('to-etc', /^its target is "other" instead of "etc", its modification/, (path) => {
        fs.rmSync(path);
        fs.symlinkSync('other', path);
      });
      wanted['base /to-etc/by-way-of-a-link'] = /^it is gone$/;
      wanted['base /etc/by-way-of-a-link'] = /^it was added$/;
      change('null', /^its device is 1:5 instead of 1:3, its modification/, (path) => {
        fs.rmSync(path);
        execFileSync('mknod', ['-m', '644', path, 'c', '1', '5']);
      });
      change('fifo', /^it is gone$/, (path) => fs.rmSync(path));
      change('implied/added', /^it was added$/, (path) => fs.writeFileSync(path, ''));
      change('again', /^it is a file instead of a directory$/, (path) => {
        fs.rmdirSync(path);
        fs.writeFileSync(path, '');
      });
      change('gone', /^its modification time/, (path) => fs.utimesSync(path, 5, 5));
      change(
        'copied-up',
        /^it is no hard link to "etc\/suid"$/,
        (path) => {
          fs.copyFileSync(path, `${path}.new`);
          fs.renameSync(`${path}.new`, path);
        },
        top,
      );
      change(
        'dropped',
        /^it is deleted no more/,
        (path) => {
          if (vfs) fs.writeFileSync(path, '');
          else fs.rmSync(path);
        },
        top,
      );
      if (vfs) change('null', /^it differs from the layer's parent$/, (path) => fs.chmodSync(path, 0o600), top);
      else {
        change(
          'implied/hidden',
          /^it is deleted, and not by the layer$/,
          (path) => {
            execFileSync('mknod', [path, 'c', '0', '0']);
          },
          top,
        );
      }
      if (!vfs) {
        const mark = (name: string) => (path: string) =>
          attribute(path, `trusted.overlay.${name}`, name === 'opaque' ? 'y' : '');
        change('implied/a', /^it is marked as opaque, not by the layer$/, mark('opaque'));
        change('implied/a/b', /^it is marked for overlayfs \(metacopy\), not by the layer$/, mark('metacopy'));
        change('etc', /^it is marked for overlayfs \(redirect\), not by the layer$/, mark('redirect'), top);
        const opaqueMark = fromText('trusted.overlay.opaque');
        change('gone', /^it hides no more what lies below$/, (path) => lremovexattr(fromText(path), opaqueMark), top);
      }
      const found: Record<string, string> = {};
      for (const { what, where } of await store.upkeep.check({ deep: true })) {
        const [, path, how] = /^"(.*?)" was changed: (.*)$/.exec(what) ?? [];
        if (path === undefined) continue; // the contents, compared for themselves
        found[`${base.includes(where) ? 'base' : 'top'} ${path}`] = how as string;
      }
      // A copy shows what lies below it, so what is changed there differs from it as well.
      const own = Object.keys(found).filter((key) => key in wanted || !vfs || !key.startsWith('top '));
      assert.deepEqual(own.sort(), Object.keys(wanted).sort());
      for (const [key, what] of Object.entries(wanted)) assert.match(found[key] as string, what, key);
    });
  }
}

for (const driver of DRIVERS) {
  test(`check() unpacks a layer whose tar is kept once more, and finds what was changed in it (${driver})`, async (t) => {
    if (!need(t, 'root', 'mount', 'mkfs.ext4')) return;
    await using disk = await filesystem('ext4', 64);
    await using store = await openStore({ root: join(disk.path, 'store'), driver, threads: 2 });
    const twice = layer(
      file('twice', 'first'),
      directory('d/'),
      file('d/content', 'as it was', { mtimeNs: NS }),
      file('d/mode'),
      file('d/gone'),
      whiteout('dropped'),
      file('twice', 'second'),
    );
    await store.images.load(once(ociImage([layer(file('dropped', 'x'), file('stays')), twice])));
    assert.match(JSON.stringify(await store.layers.stored()), /a later entry replaces/);
    assert.deepEqual(await store.upkeep.check({ deep: true }), [], 'unchanged');
    const tree = treeOf(store, 'twice');
    const homes = (): string[] => fs.globSync([`${store.driver.home}/*`, `${store.driver.home}/dir/*`]).sort();
    const entries = homes();
    fs.writeFileSync(join(tree, 'd/content'), 'otherwise');
    execFileSync('touch', ['-d', '@1700000000.123456789', join(tree, 'd/content')]);
    fs.chmodSync(join(tree, 'd/mode'), 0o600);
    fs.rmSync(join(tree, 'd/gone'));
    fs.writeFileSync(join(tree, 'd/added'), '');
    if (driver === 'vfs') fs.writeFileSync(join(tree, 'dropped'), 'x');
    else fs.rmSync(join(tree, 'dropped'));
    const faults = await store.upkeep.check({ deep: true });
    assert.deepEqual(faults.map(({ what }) => what).sort(), [
      '"/d/added" was changed: it was added',
      '"/d/content" was changed: it is not as its tar says',
      '"/d/gone" was changed: it is gone',
      '"/d/mode" was changed: it is not as its tar says',
      '"/dropped" was changed: it was added',
    ]);
    assert.deepEqual(homes(), entries, 'nothing is left of the comparison');
  });
}

function attribute(path: string, name: string, value: string): void {
  lsetxattr(fromText(path), fromText(name), Buffer.from(value));
}

/** The tree of the layer that has `name` itself: of copies, the lowest. */
function treeOf(store: Store, name: string): string {
  const { home } = store.driver;
  const found = fs.globSync([`${home}/*/diff/${name}`, `${home}/dir/*/${name}`]);
  const roots = found.map((path) => path.slice(0, -name.length - 1));
  const count = (root: string): number => fs.readdirSync(root).length;
  return roots.sort(
    (a, b) => fs.statSync(a).birthtimeMs - fs.statSync(b).birthtimeMs || count(a) - count(b),
  )[0] as string;
}
