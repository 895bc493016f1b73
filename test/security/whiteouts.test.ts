import assert from 'node:assert/strict';
import { readdirSync, statSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import { toText } from '../../src/base/bytes.ts';
import {
  device,
  directory,
  file,
  hardlink,
  layer,
  ociImage,
  opaque,
  piece,
  symlink,
  whiteout,
} from '../kit/layer-builder.ts';
import { header } from '../tar/craft.ts';
import { OCI } from '../transport/archives.ts';
import { onBothDrivers } from './both.ts';

// security-cases, "Whiteouts", and "One reading for each": Whiteouts.

const test = onBothDrivers();

const BASE = layer(
  directory('d/', { mode: 0o750, uid: 2, mtimeNs: 8n }),
  file('d/f', 'lower'),
  directory('d/e/'),
  file('d/e/g', 'deep'),
  file('h', 'one'),
  hardlink('i', 'h'),
  symlink('l', 'd'),
);
const D = 'd/ 750 2:0 @8';

test('Whiteouts: ".wh.", ".wh.." and ".wh..." are refused, wherever they stand', async (both) => {
  for (const name of ['.wh.', '.wh..', '.wh...']) {
    for (const path of [name, `d/${name}`, `./d/../${name}`, `new/${name}`]) {
      await both.refuses(/a whiteout of "\.", "\.\." or of nothing/, BASE, layer(file(path)));
    }
    await both.refuses(/whiteout/, BASE, layer(directory(`d/${name}/`)));
    await both.refuses(/lies below a whiteout/, BASE, layer(file(`d/${name}/x`)));
    await both.refuses(/a hard link to the whiteout/, BASE, layer(hardlink('x', `d/${name}`)));
  }
});

test('Whiteouts: any type, mode, owner or content is still a whiteout', async (both) => {
  const pieces = [
    file('.wh.h'),
    file('.wh.h', 'content', { mode: 0o777, uid: 9 }),
    directory('.wh.h/'),
    symlink('.wh.h', both.canary),
    hardlink('.wh.h', 'd/f'),
    piece('fifo', '.wh.h'),
    device('.wh.h', 1, 3),
  ];
  for (const one of pieces) {
    assert.deepEqual(await both.tree(BASE, layer(one)), [
      './',
      D,
      'd/e/',
      'd/e/g "deep"',
      'd/f "lower"',
      'i "one"',
      'l -> d',
    ]);
  }
  await both.refuses(/lies below a whiteout/, BASE, layer(directory('.wh.d/'), file('.wh.d/x')));
});

test('Whiteouts: an entry and a whiteout of its name, in either order: the entry stays, all below it is hidden', async (both) => {
  const entries = [
    [[file('d', 'new')], ['d "new"']],
    [
      [directory('d/', { mode: 0o711 }), file('d/n', 'new')],
      ['d/ 711', 'd/n "new"'],
    ],
    [[file('d/n', 'new')], ['d/', 'd/n "new"']],
    [[symlink('d', 'x')], ['d -> x']],
    [[file('d/e/n', 'new')], ['d/', 'd/e/', 'd/e/n "new"']],
  ] as const;
  for (const [pieces, lines] of entries) {
    const expected = ['./', ...lines, 'h "one"', 'i = h', 'l -> d'];
    assert.deepEqual(await both.tree(BASE, layer(whiteout('d'), ...pieces)), expected);
    assert.deepEqual(await both.tree(BASE, layer(...pieces, whiteout('d'))), expected);
  }
});

test('Whiteouts: a name that becomes a directory after something else hides all below it, wherever its whiteout stands', async (both) => {
  const others = [file('d', 'x'), symlink('d', 'h'), device('d', 1, 3)];
  const as = directory('d/', { mode: 0o711 });
  const expected = ['./', 'd/ 711', 'h "one"', 'i = h', 'l -> d'];
  for (const other of others) {
    for (const pieces of [
      [whiteout('d'), other, as],
      [other, whiteout('d'), as],
      [other, as, whiteout('d')],
      [whiteout('d'), other, whiteout('d'), as],
      [whiteout('d'), as, other, as],
      [as, whiteout('d'), other, as],
      [whiteout('d'), file('d/e/n'), other, as],
      [as, opaque('d'), other, as],
      [whiteout('d'), other, file('d', 'again'), other, as],
    ]) {
      const tars = [BASE, layer(...pieces)];
      assert.deepEqual(await both.tree(...tars), expected);
      await both.each(tars, async (store) => assert.deepEqual(await store.upkeep.check({ deep: true }), []));
    }
    // Without one it is as what lies below.
    const merged = ['./', 'd/ 711', 'd/e/', 'd/e/g "deep"', 'd/f "lower"', 'h "one"', 'i = h', 'l -> d'];
    assert.deepEqual(await both.tree(BASE, layer(other, as)), merged);
  }
});

test('Whiteouts: what names nothing below makes nothing, and in the first layer is not seen', async (both) => {
  const first = layer(whiteout('x'), directory('d/'), whiteout('d/y'), opaque('d'), opaque(), file('d/f'));
  assert.deepEqual(await both.tree(first), ['./', 'd/', 'd/f ""']);
  const second = layer(whiteout('x'), whiteout('new/y'), file('new/z'), whiteout('d/none'), whiteout('h/in'));
  assert.deepEqual(await both.tree(first, second), ['./', 'd/', 'd/f ""', 'h/', 'new/', 'new/z ""']);
  // Seen through the view alone an idle whiteout would be hidden in a merged directory; in a new one it would be listed.
  await both.each([first, second], async (store, image) => {
    if (store.driver.name !== 'overlay2') return;
    await using view = await store.layers.view(image.id);
    assert.equal(statSync(`${toText(view.path)}/new/y`, { throwIfNoEntry: false }), undefined);
  });
});

test('Whiteouts: an opaque marker before, between and after the files of its directory', async (both) => {
  const files = [file('d/n', '1'), file('d/e/m', '2'), directory('d/', { mode: 0o700 })];
  const expected = ['./', 'd/ 700', 'd/e/', 'd/e/m "2"', 'd/n "1"', 'h "one"', 'i = h', 'l -> d'];
  for (let at = 0; at <= files.length; at++) {
    assert.deepEqual(await both.tree(BASE, layer(...files.toSpliced(at, 0, opaque('d')))), expected);
  }
  assert.deepEqual(await both.tree(BASE, layer(opaque('d'))), ['./', D, 'h "one"', 'i = h', 'l -> d']);
  const deep = ['./', D, 'd/e/', 'd/f "lower"', 'h "one"', 'i = h', 'l -> d'];
  assert.deepEqual(await both.tree(BASE, layer(opaque('d/e'))), deep);
});

test('Whiteouts: an opaque marker at the root hides every name below', async (both) => {
  const pieces = [directory('d/'), file('d/n', 'new'), file('k', 'kept')];
  for (let at = 0; at <= pieces.length; at++) {
    const tree = await both.tree(BASE, layer(...pieces.toSpliced(at, 0, opaque())));
    assert.deepEqual(tree, ['./', 'd/', 'd/n "new"', 'k "kept"']);
  }
  assert.deepEqual(await both.tree(BASE, layer(opaque())), ['./']);
  assert.deepEqual(await both.tree(BASE, layer(opaque()), layer(file('d/f', 'again'))), ['./', 'd/', 'd/f "again"']);
  await both.refuses(/does not exist/, BASE, layer(opaque(), hardlink('x', 'h')));
  await both.refuses(/does not exist/, BASE, layer(hardlink('x', 'd/e/g'), opaque('d')));
});

test('Whiteouts: type changes across layers, there and back', async (both) => {
  const kinds = {
    file: [file('x', 'f')],
    directory: [directory('x/'), file('x/in', 'i')],
    symlink: [symlink('x', both.canary)],
    device: [device('x', 1, 3)],
  };
  const lines = {
    file: ['x "f"'],
    directory: ['x/', 'x/in "i"'],
    symlink: [`x -> ${both.canary}`],
    device: ['x device 1,3'],
  };
  for (const [a, first] of Object.entries(kinds)) {
    for (const [b, second] of Object.entries(kinds)) {
      if (a === b) continue;
      const [one, two] = [layer(...first), layer(...second)];
      assert.deepEqual(await both.tree(one, two), ['./', ...lines[b as keyof typeof lines]], `${a} to ${b}`);
      assert.deepEqual(await both.tree(one, two, one), ['./', ...lines[a as keyof typeof lines]], `${a}, ${b}, ${a}`);
      const gone = layer(whiteout('x'));
      assert.deepEqual(await both.tree(one, gone, two), ['./', ...lines[b as keyof typeof lines]], `${a}, gone, ${b}`);
    }
  }
});

test('Whiteouts: when one name of a hard link is deleted, the other stays', async (both) => {
  assert.deepEqual(await both.tree(BASE, layer(whiteout('h'))), [
    './',
    D,
    'd/e/',
    'd/e/g "deep"',
    'd/f "lower"',
    'i "one"',
    'l -> d',
  ]);
  assert.deepEqual(await both.tree(layer(file('a', 'x'), hardlink('b', 'a'), whiteout('a'))), ['./', 'a "x"', 'b = a']);
});

test('Whiteouts: a layer that comes twice in one image', async (both) => {
  const change = layer(whiteout('h'), file('d/n', 'n'), opaque('d/e'));
  const once = await both.tree(BASE, change);
  assert.deepEqual(await both.tree(BASE, change, change), once);
  assert.deepEqual(await both.tree(BASE, BASE), await both.tree(BASE));
  assert.deepEqual(await both.tree(BASE, change, BASE), [...(await both.tree(BASE)).toSpliced(4, 0, 'd/n "n"')].sort());
});

test("Whiteouts: aufs' own names are ignored, with all below them and links to them", async (both) => {
  const tree = await both.tree(
    BASE,
    layer(
      file('.wh..wh.aufs', 'x'),
      directory('.wh..wh.plnk/'),
      file('.wh..wh.plnk/1.2', 'x'),
      directory('.wh..wh.orph/'),
      file('d/.wh..wh.anything', 'x'),
      file('.wh..wh..opq.x', 'x'),
      file('d/.wh..wh..OPQ', 'x'),
      hardlink('linked', '.wh..wh.plnk/1.2'),
      hardlink('d/linked', 'd/.wh..wh.anything'),
      file('.wh..wh.plnk/.wh.h', 'x'),
      file('.wh..wh.plnk/../../../h2', 'clean'),
    ),
  );
  assert.deepEqual(tree, ['./', D, 'd/e/', 'd/e/g "deep"', 'd/f "lower"', 'h "one"', 'h2 "clean"', 'i = h', 'l -> d']);
});

test('Whiteouts: through symlinks they stay inside, and never delete what a link leads to', async (both) => {
  const tree = await both.tree(
    BASE,
    layer(
      symlink('out', both.canary),
      whiteout('out/file'),
      opaque('out/directory'),
      whiteout('l'),
      symlink('q', '..'),
      whiteout('q/i'),
    ),
  );
  // No directory is made inside either for what only a whiteout names through a link.
  const expected = [D, 'd/e/', 'd/e/g "deep"', 'd/f "lower"', 'h "one"', `out -> ${both.canary}`, 'q -> ..'];
  assert.deepEqual(tree.sort(), ['./', ...expected].sort());
  // What hides something stays, also where nothing else led there.
  const hidden = await both.tree(BASE, layer(symlink('z', 'd'), opaque('z'), file('z')));
  assert.deepEqual(hidden, ['./', D, 'h "one"', 'i = h', 'l -> d', 'z ""']);
  const reborn = await both.tree(BASE, layer(whiteout('d'), symlink('z', 'd'), whiteout('z/f'), file('z')));
  assert.deepEqual(
    reborn.filter((line) => line.startsWith('d/')),
    [],
  );
  // What led through leaves nothing that a check would take for an addition.
  const below = layer(directory('usr/'), directory('lib/'), file('lib/x'));
  const moved = layer(symlink('lib', 'usr/lib'), whiteout('lib/x'));
  assert.deepEqual(await both.tree(below, moved), ['./', 'lib -> usr/lib', 'usr/']);
});

test('Whiteouts: device 0:0 and the attributes of overlay filesystems in an archive never take effect', async (both) => {
  const overlay = { 'trusted.overlay.opaque': 'y', 'user.overlay.opaque': 'y', 'user.fuseoverlayfs.opaque': 'y' };
  const { tree, notes } = await both.loaded(
    BASE,
    layer(
      device('h', 0, 0),
      device('new', 0, 0),
      directory('d/', { xattrs: { ...overlay, 'trusted.overlay.redirect': '/l', 'user.kept': '1' } }),
      file('d/w', '', {
        xattrs: { 'trusted.overlay.whiteout': 'y', 'trusted.overlay.metacopy': '', 'user.overlay.whiteout': 'y' },
      }),
      header({ name: 'blk', type: '4', mode: '600', size: 0, major: '0', minor: '0' }),
    ),
  );
  assert.deepEqual(tree, [
    './',
    'd/ user.kept="1"',
    'd/e/',
    'd/e/g "deep"',
    'd/f "lower"',
    'd/w ""',
    'h "one"',
    'i = h',
    'l -> d',
  ]);
  assert.ok(notes.includes('layer 2: left out, a device 0:0 would be a deletion: "h" and 2 more'), notes.join('\n'));
  for (const key of [...Object.keys(overlay), 'trusted.overlay.redirect', 'trusted.overlay.whiteout']) {
    assert.ok(
      notes.some((note) => note.includes(`"${key}" left out`)),
      key,
    );
  }
});

test('Whiteouts: 500,000 of them cost linear time', async (both) => {
  const count = 500_000;
  const one = file('.wh.n000000');
  const many = Buffer.alloc(one.length * count + 1024);
  for (let i = 0; i < count; i++) {
    const at = i * one.length;
    many.set(one, at);
    many.write(String(i).padStart(6, '0'), at + 5, 'latin1');
    many.fill(0x20, at + 148, at + 156);
    const sum = many.subarray(at, at + 512).reduce((total, byte) => total + byte, 0);
    many.write(`${sum.toString(8).padStart(6, '0')}\0 `, at + 148, 'latin1');
  }
  const base = layer(file('n000001', 'x'), file('kept'));
  const top = { tar: many, blob: gzipSync(many, { level: 1 }), mediaType: `${OCI}layer.v1.tar+gzip` };
  const bytes = ociImage([base, top]);
  for (const store of both.stores) {
    const started = process.cpuUsage();
    const [image] = await store.images.load(
      (async function* () {
        yield bytes;
      })(),
    );
    const { user, system } = process.cpuUsage(started);
    const seconds = (user + system) / 1e6; // of this process, so that busy neighbours do not count
    assert.ok(image !== undefined);
    // About 30 µs each, archive, record and removal of idle ones included; the square would be hours.
    assert.ok(seconds < 40, `${store.driver.name} took ${seconds} s`);
    {
      await using view = await store.layers.view(image.id);
      assert.deepEqual(readdirSync(toText(view.path)), ['kept']);
    }
    await store.images.remove(image.id, { force: true });
  }
});
