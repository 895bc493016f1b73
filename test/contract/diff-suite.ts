import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { after, type TestContext, test } from 'node:test';
import { type ByteString, quote, toBytes, toText } from '../../src/base/bytes.ts';
import type { LayerId } from '../../src/base/values.ts';
import { type StorageDriver, storageDriver } from '../../src/graph/storage-driver.ts';
import { openThreads, type Threads } from '../../src/graph/threads.ts';
import { AT_FDCWD, mknodat, S_IFSOCK } from '../../src/linux/inode.ts';
import { readTar } from '../../src/tar/read.ts';
import { applyEdits, CAP_NET_RAW, type Edit } from '../kit/edits.ts';
import { device, directory, fifo, file, hardlink, layer, opaque, symlink, whiteout } from '../kit/layer-builder.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { collect } from '../transport/archives.ts';
import { below, dump, id } from './driver-house.ts';
import type { Fixture } from './driver-suite.ts';

const a = id('a');
const b = id('b');
const c = id('c');
const d = id('d');

const OLD = { mtimeNs: 1_600_000_000_123_456_789n };

const BASE = layer(
  directory('etc/', { mode: 0o711, ...OLD }),
  file('etc/motd', 'hello\n', { uid: 1, gid: 2, mode: 0o640, ...OLD }),
  hardlink('etc/linked', 'etc/motd'),
  file('etc/gone', 'gone'),
  directory('opt/'),
  directory('opt/old/', { mode: 0o750 }),
  file('opt/old/file', 'old'),
  file('low', 'low', { xattrs: { 'security.capability': Buffer.from(CAP_NET_RAW, 'latin1') } }),
  symlink('link', 'etc/motd'),
  directory('tmp/', { mode: 0o1777 }),
  file('type', 'a file'),
  file('plain', 'plain'),
);

/** In an order that no packer has; `tmp` and `opt/old` are only implied. */
const TOP = layer(
  file('opt/old/own', 'own'),
  opaque('opt/old'),
  whiteout('never-was'),
  file('tmp/new', 'new'),
  directory('etc/', { mode: 0o711, ...OLD }),
  whiteout('etc/gone'),
  hardlink('copied', 'low'),
  file('a', 'x'.repeat(10), { mode: 0o4711 }),
  hardlink('b', 'a'),
  directory('type/'),
  symlink('link', 'elsewhere'),
  fifo('fifo', { mode: 0o640 }),
  device('null', 1, 3, { mode: 0o666 }),
);

const TREE = [
  '"/" directory 755',
  '"/a" file 4711',
  '"/b" file 4711',
  '"/copied" file 644',
  '"/etc" directory 711',
  '"/etc/linked" file 640',
  '"/etc/motd" file 640',
  '"/fifo" fifo 640',
  '"/link" symlink 777',
  '"/low" file 644',
  '"/null" character-device 666',
  '"/opt" directory 755',
  '"/opt/old" directory 750',
  '"/opt/old/own" file 644',
  '"/plain" file 644',
  '"/tmp" directory 1777',
  '"/tmp/new" file 644',
  '"/type" directory 755',
];

const CORE =
  'A /a, A /b, A /copied, D /etc/gone, A /fifo, C /link, A /null, D /opt/old/file, A /opt/old/own, A /tmp/new, C /type';
const DOCKER =
  'A /a, A /b, A /copied, C /etc, D /etc/gone, A /fifo, C /link, A /null, C /opt, C /opt/old, D /opt/old/file, ' +
  'A /opt/old/own, C /tmp, A /tmp/new, C /type';
/** `a` once, the copy of `low` once, `own`, `new`, the target of `link`. */
const SIZE = 10 + 3 + 3 + 3 + 9;

/** Done through a mount: all kinds of change, among them those that only a comparison of contents finds. */
const EDITS: readonly Edit[] = [
  { do: 'forge', path: 'opt/old/file' },
  { do: 'rewrite', path: 'low' }, // the kernel takes its capability away
  { do: 'delete', path: 'etc' },
  { do: 'mkdir', path: 'etc' },
  { do: 'create', path: 'etc/motd', seed: 5 },
  { do: 'link', path: 'etc/motd', to: 'etc/again' },
  { do: 'chmod', path: 'tmp', mode: 0o700 },
  { do: 'chown', path: 'opt', uid: 3, gid: 5 },
  { do: 'replace', path: 'type', by: 'symlink' },
  { do: 'rename', path: 'link', to: 'renamed' },
  { do: 'device', path: 'device', block: true, minor: 4 },
  { do: 'xattr', path: 'renamed', name: 'user.none', value: 'no symlink has them' },
];

/** What every driver owes of filling and reading its layers, through graph's StorageDriver (driver-behaviour D6 to D9c). */
export function diffDuties(house: Fixture): void {
  let threads: Threads | undefined;
  after(() => threads?.[Symbol.asyncDispose]());

  const onDriver = async (t: TestContext, task: (driver: StorageDriver) => Promise<void>): Promise<void> => {
    await using h = await house(t);
    if (h === undefined) return;
    threads ??= await openThreads(2);
    const scratch = `${h.settings.home}-scratch` as ByteString;
    mkdirSync(toBytes(scratch));
    // The house disposes the driver, and the threads are for all.
    await task(storageDriver(h.driver, threads, scratch));
  };

  test('apply() makes what the archive says of what is below, in any order (D9, D9b)', async (t) => {
    await onDriver(t, async (driver) => {
      await make(driver, a, BASE);
      await make(driver, b, TOP, a);
      const lines = await shown(driver, b);
      assert.deepEqual(
        lines.map((line) => line.split(' ').slice(0, 3).join(' ')),
        TREE,
      );
      const linked = lines.filter((line) => line.includes(' link=')).map((line) => line.replace(/ .* /, ' '));
      assert.deepEqual(linked, ['"/b" link="/a"', '"/etc/motd" link="/etc/linked"', '"/low" link="/copied"']);
      const low = lines.filter((line) => line.includes(Buffer.from(CAP_NET_RAW, 'latin1').toString('hex')));
      assert.equal(low.length, 2, 'the file that was copied up keeps what it had');
      assert.deepEqual((await shown(driver, a)).length, 13, 'the parent is as it was');
    });
  });

  test('apply() against another layer than the parent changes what the layer shows, also twice (D6, D9)', async (t) => {
    await onDriver(t, async (driver) => {
      const own = layer(file('extra', 'extra'), file('etc/gone', 'again'), directory('opt/old/more/'));
      await make(driver, a, BASE);
      await make(driver, c, own, a);
      await make(driver, d, TOP, c);
      const expected = await shown(driver, d);
      await driver.create(b, { writable: true, parent: a });
      await driver.apply(b, pieces(own));
      const tar = { parent: d };
      const { sizeBytes } = await driver.apply(b, pieces(TOP), tar);
      assert.equal(sizeBytes, SIZE);
      assert.deepEqual(await shown(driver, b), expected);
      // The same changes of the same tree: nothing is left to change.
      await driver.apply(b, pieces(TOP), tar);
      assert.deepEqual(await shown(driver, b), expected);
      assert.equal(await driver.isMounted(b), false);
      await assert.rejects(driver.apply(b, pieces(TOP.subarray(0, 1400)), tar), { code: 'corrupt' });
      assert.deepEqual(await shown(driver, b), expected, 'a broken archive changes nothing');
    });
  });

  test('apply() takes no parent that is not there, no layer that is read-only, and one archive at a time (D2, D9)', async (t) => {
    await onDriver(t, async (driver) => {
      await make(driver, a, BASE);
      await driver.create(b, { writable: true, parent: a });
      for (const parent of [id('absent'), b]) {
        await assert.rejects(driver.apply(b, pieces(TOP), { parent }), { code: 'not-found' });
      }
      await make(driver, d, layer());
      const before = await shown(driver, a);
      for (const options of [{}, { parent: d }]) {
        await assert.rejects(driver.apply(a, pieces(TOP), options), { code: 'failed-precondition' });
      }
      assert.deepEqual(await shown(driver, a), before);
      const all = await Promise.allSettled([1, 2, 3].map(() => driver.apply(b, pieces(TOP), { parent: d })));
      assert.equal(all.filter(({ status }) => status === 'fulfilled').length, 1, JSON.stringify(all));
      for (const one of all) if (one.status === 'rejected') assert.equal(one.reason.code, 'busy', one.reason);
      await driver.create(c, { writable: true, parent: a });
      await driver.apply(c, pieces(TOP));
      assert.deepEqual(await shown(driver, b), await shown(driver, c));
    });
  });

  test('apply() to what a layer shows goes through no symlink of it (invariant 7)', async (t) => {
    await onDriver(t, async (driver) => {
      const outside = `${toText(driver.home)}-outside`;
      mkdirSync(`${outside}/dir`, { recursive: true });
      writeFileSync(`${outside}/dir/kept`, 'kept');
      const before = dumpTree(outside);
      const up = '../'.repeat(20);
      await make(
        driver,
        a,
        layer(symlink('abs', outside), symlink('up', `${up}${outside.slice(1)}`), symlink('f', `${outside}/dir/kept`)),
      );
      await make(driver, d, layer());
      await driver.create(b, { writable: true, parent: a });
      const hostile = layer(
        whiteout('abs/dir/kept'),
        file('abs/new', 'n'),
        opaque('up/dir'),
        file('up/dir/new', 'n'),
        file('f', 'over'),
        hardlink('linked', 'f'),
      );
      await driver.apply(b, pieces(hostile), { parent: d });
      assert.deepEqual(dumpTree(outside), before);
      const names = (await shown(driver, b)).map((line) => line.split(' ').slice(0, 2).join(' '));
      assert.deepEqual(names.slice(1), [
        '"/abs" directory',
        '"/abs/dir" directory',
        '"/abs/new" file',
        '"/f" file',
        '"/linked" file',
        '"/up" directory',
        '"/up/dir" directory',
        '"/up/dir/new" file',
      ]);
    });
  });

  test('changes() lists what differs, in both renderings, from any layer below and from nothing (D6, D7)', async (t) => {
    await onDriver(t, async (driver) => {
      await make(driver, a, BASE);
      await make(driver, b, TOP, a);
      await make(driver, c, layer(file('later', 'later')), b);
      assert.equal(await listed(driver, b, a, 'core'), CORE);
      assert.equal(await listed(driver, b, a, 'docker'), DOCKER);
      assert.equal(await listed(driver, c, b, 'docker'), 'A /later');
      assert.equal(await listed(driver, c, a, 'core'), CORE.replace('C /link', 'A /later, C /link'));
      const all = TREE.slice(1).map((line) => `A ${JSON.parse(line.split(' ')[0] as string)}`);
      for (const rendering of ['core', 'docker'] as const) {
        assert.equal(await listed(driver, b, undefined, rendering), all.join(', '));
      }
    });
  });

  test('diff() names each change once, and packs equal trees into equal bytes (D8)', async (t) => {
    await onDriver(t, async (driver) => {
      await make(driver, a, BASE);
      await make(driver, b, TOP, a);
      const tar = await collect(driver.diff(b, a));
      const members: string[] = [];
      for await (const { entry } of readTar(pieces(tar))) members.push(`${toText(entry.name)} ${entry.type}`);
      assert.deepEqual(members, [
        'a file',
        'b hardlink',
        'copied file',
        'etc/ directory',
        'etc/.wh.gone file',
        'fifo fifo',
        'link symlink',
        'low hardlink',
        'null character-device',
        'opt/ directory',
        'opt/old/ directory',
        'opt/old/.wh.file file',
        'opt/old/own file',
        'tmp/ directory',
        'tmp/new file',
        'type/ directory',
      ]);
      assert.ok((await collect(driver.diff(b, a))).equals(tar));
      await make(driver, c, tar, a);
      assert.ok((await collect(driver.diff(c, a))).equals(tar), 'of a copy too');
    });
  });

  test('diff() applied to a copy of the parent gives the layer, of the same size; so does transfer() (D8, D9, D9c)', async (t) => {
    await onDriver(t, async (driver) => {
      await make(driver, a, BASE);
      await make(driver, b, TOP, a);
      await driver.create(c, { parent: a, writable: true });
      await using mounted = await driver.mount(c);
      applyEdits(toText(mounted.path), EDITS);
      for (const [from, parent] of [
        [b, a],
        [c, a],
        [b, undefined],
      ] as const) {
        const what = `${from} of ${parent}`;
        const tree = await shown(driver, from);
        const sizes = [(await make(driver, d, driver.diff(from, parent), parent)).sizeBytes];
        assert.deepEqual(await shown(driver, d), tree, what);
        sizes.push(await driver.diffSize(d, parent));
        await driver.remove(d);
        if (parent !== undefined) {
          await driver.create(d, { parent, writable: false });
          sizes.push((await driver.transfer(from, d)).sizeBytes);
          assert.deepEqual(await shown(driver, d), tree, what);
          await driver.remove(d);
        }
        assert.deepEqual(new Set(sizes).size, 1, `${what}: ${sizes}`);
        if (from === b && parent === a) assert.equal(sizes[0], SIZE);
      }
      assert.equal(await driver.diffSize(b, a), SIZE);
      // Against another than the direct parent.
      await make(driver, d, layer(whiteout('low'), file('later', 'later')), b);
      await make(driver, id('e'), driver.diff(d, a), a);
      assert.deepEqual(await shown(driver, id('e')), await shown(driver, d));
    });
  });

  test('changes() and diff() see what was done through a mount, contents behind equal metadata too (D7)', async (t) => {
    await onDriver(t, async (driver) => {
      await make(driver, a, BASE);
      await driver.create(b, { parent: a, writable: true });
      await using mounted = await driver.mount(b);
      assert.equal(await listed(driver, b, a, 'core'), '');
      assert.equal(await driver.diffSize(b, a), 0);
      // Copied up and not changed.
      applyEdits(toText(mounted.path), [...EDITS, { do: 'rewrite', path: 'plain' }]);
      assert.equal(
        await listed(driver, b, a, 'core'),
        'A /device, C /etc, A /etc/again, D /etc/gone, D /etc/linked, C /etc/motd, D /link, C /low, C /opt, C /opt/old/file, ' +
          'A /renamed, C /tmp, C /type',
      );
    });
  });

  test('apply() into a layer that has entries already is refused, and changes nothing (D9)', async (t) => {
    await onDriver(t, async (driver) => {
      await make(driver, a, BASE);
      const refuses = async (layerId: LayerId, sealed = false): Promise<void> => {
        const was = await shown(driver, layerId);
        const { root } = await driver.content(layerId);
        const entries = `Cannot unpack into ${quote(root)}: the layer has entries already`;
        const message = sealed ? /it is read-only, committed or below others$/ : entries;
        await assert.rejects(driver.apply(layerId, pieces(layer(file('etc/f', 'x')))), {
          code: 'failed-precondition',
          message,
        });
        assert.deepEqual(await shown(driver, layerId), was);
      };
      await refuses(a, true);
      for (const [n, first] of [file('f', 'x'), whiteout('low'), file('low', 'low'), directory('new/')].entries()) {
        await driver.create(id(`n${n}`), { parent: a, writable: false });
        await driver.apply(id(`n${n}`), pieces(layer(first)));
        await refuses(id(`n${n}`));
      }
      await driver.create(b, { parent: a, writable: true });
      {
        await using mounted = await driver.mount(b);
        writeFileSync(below(mounted.path, 'etc/written'), 'x');
      }
      await refuses(b);
      // A socket of the parent, which no archive and no copy holds, is not an entry of the child.
      await driver.create(c, { writable: true });
      mknodat(AT_FDCWD, `${(await driver.content(c)).root}/socket` as ByteString, S_IFSOCK | 0o600, 0, 0);
      await make(driver, d, layer(file('f', 'x')), c);
    });
  });

  test('apply() of a damaged archive is corrupt; remove() then leaves the home as it was (D4)', async (t) => {
    await onDriver(t, async (driver) => {
      await make(driver, a, BASE);
      await driver.create(b, { parent: a, writable: false });
      await driver.remove(b);
      const was = dump(driver.home);
      for (const tar of [TOP.subarray(0, 514), layer(file('f', ''), hardlink('h', 'nowhere'))]) {
        await driver.create(b, { parent: a, writable: false });
        await assert.rejects(driver.apply(b, pieces(tar)), { code: 'corrupt' });
        await driver.remove(b);
        assert.deepEqual(dump(driver.home), was);
      }
    });
  });
}

/** A sealed layer of that archive. */
async function make(
  driver: StorageDriver,
  layerId: LayerId,
  tar: Uint8Array | AsyncIterable<Uint8Array>,
  parent?: LayerId,
): ReturnType<StorageDriver['apply']> {
  await driver.create(layerId, { writable: false, ...(parent === undefined ? {} : { parent }) });
  const report = await driver.apply(layerId, tar instanceof Uint8Array ? pieces(tar) : tar);
  await driver.seal([layerId]);
  return report;
}

async function* pieces(tar: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < tar.length; at += 700) yield tar.subarray(at, at + 700);
}

/** As it is mounted now, or read-only. */
async function shown(driver: StorageDriver, layerId: LayerId): Promise<string[]> {
  const readonly = !(await driver.isMounted(layerId));
  await using mounted = await driver.mount(layerId, { readonly });
  return dumpTree(toText(mounted.path));
}

async function listed(
  driver: StorageDriver,
  layerId: LayerId,
  parent: LayerId | undefined,
  rendering: 'core' | 'docker',
): Promise<string> {
  const kinds = { add: 'A', modify: 'C', delete: 'D', rename: 'R' } as const;
  const lines: string[] = [];
  for await (const { kind, path } of driver.changes(layerId, parent, { rendering })) {
    lines.push(`${kinds[kind]} ${toText(path)}`);
  }
  return lines.join(', ');
}
