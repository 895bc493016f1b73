import assert from 'node:assert/strict';
import { directory, file, hardlink, layer, symlink, whiteout } from '../kit/layer-builder.ts';
import { END, extended, header, padded, pax } from '../tar/craft.ts';
import { onBothDrivers } from './both.ts';

// security-cases, "One reading for each": Names, Root, Duplicates, Hard links.

const test = onBothDrivers();

test('Names: absolute ones and ".." are clamped at the root', async (both) => {
  const tree = await both.tree(
    layer(
      file('/abs', 'a'),
      file('../../up', 'b'),
      file('a/../../../up2', 'c'),
      file(`${both.canary}/file`, 'd'),
      directory('x/..//./y/'),
      file('//x///z', 'e'),
    ),
  );
  const canary = both.canary.slice(1).split('/');
  const parents = canary.map((_, i) => `${canary.slice(0, i + 1).join('/')}/`);
  const expected = [
    './',
    'abs "a"',
    ...parents,
    `${canary.join('/')}/file "d"`,
    'up "b"',
    'up2 "c"',
    'x/',
    'x/z "e"',
    'y/',
  ];
  assert.deepEqual(tree.sort(), expected.sort());
});

test('Names: one that comes to nothing is the root', async (both) => {
  for (const name of ['./', '/', '..', 'a/..', '.', '../..']) {
    const tree = await both.tree(layer(directory(name, { mode: 0o700, uid: 3 }), file('f')));
    assert.deepEqual(tree, ['./ 700 3:0', 'f ""'], name);
  }
  for (const name of ['.', 'a/..', '/']) {
    await both.refuses(/the root of a layer is a directory/, layer(file(name === '/' ? './' : name, 'x')));
    await both.refuses(/the root of a layer is a directory/, layer(symlink(name, '/etc')));
    await both.refuses(/the root of a layer is a directory/, layer(file('f'), hardlink(name, 'f')));
  }
});

test('Names: a NUL ends a name in a header field and is refused in a PAX value', async (both) => {
  const raw = layer(
    header({ name: 'cut\0off', size: 0, mode: '0000644', uid: '0000000', gid: '0000000', mtime: '00000000000' }),
  );
  assert.deepEqual(await both.tree(raw), ['./', 'cut ""']);
  await both.refuses(/holds a NUL/, layer(pax({ path: 'a\0b' }), header({ name: 'a', size: 0 })));
  await both.refuses(/holds a NUL/, layer(pax({ linkpath: 'a\0b' }), header({ name: 'a', size: 0, type: '2' })));
});

test('Names: a symlink of the same layer is followed, inside the root', async (both) => {
  const tree = await both.tree(
    layer(
      symlink('abs', '/d/e'),
      file('abs/f', '1'),
      symlink('up', '../../../d'),
      file('up/g', '2'),
      symlink('chain', 'up/e'),
      file('chain/h', '3'),
      directory('var/'),
      symlink('var/run', '/run'),
      file('var/run/pid', '4'),
    ),
  );
  assert.deepEqual(tree, [
    './',
    'abs -> /d/e',
    'chain -> up/e',
    'd/',
    'd/e/',
    'd/e/f "1"',
    'd/e/h "3"',
    'd/g "2"',
    'run/',
    'run/pid "4"',
    'up -> ../../../d',
    'var/',
    'var/run -> /run',
  ]);
  await both.refuses(/circle/, layer(symlink('a', 'b'), symlink('b', 'a'), file('a/f')));
  await both.refuses(/circle/, layer(symlink('a', 'a/x'), file('a/f')));
});

test('Names: symlinks that lead over more than 1,000 parts in all are refused', async (both) => {
  const winding = (parts: number): string => 'd/../'.repeat(parts / 2);
  const short = layer(directory('d/'), symlink('l', `${winding(900)}d`), file('l/f'));
  assert.deepEqual((await both.tree(short)).slice(0, 3), ['./', 'd/', 'd/f ""']);
  const twice = layer(directory('d/'), symlink('m', winding(600)), symlink('l', `${winding(600)}m`), file('l/f'));
  await both.refuses(/1000 parts/, twice);
});

test('Names: a symlink of a lower layer on the way is hidden by a directory', async (both) => {
  const base = layer(directory('run/'), file('run/old', 'o'), directory('var/'), symlink('var/run', '/run'));
  assert.deepEqual(await both.tree(base, layer(file('var/run/new', 'n'))), [
    './',
    'run/',
    'run/old "o"',
    'var/',
    'var/run/',
    'var/run/new "n"',
  ]);
});

test('Names: a file of the same layer on the way is refused, one of a lower layer is hidden by a directory', async (both) => {
  await both.refuses(/made "a" a file, no directory/, layer(file('a', 'x'), file('a/b')));
  await both.refuses(
    /made "d\/a" a fifo, no directory/,
    layer(header({ name: 'd/a', type: '6', size: 0 }), file('d/a/b/c')),
  );
  assert.deepEqual(await both.tree(layer(file('a', 'x')), layer(file('a/b', 'y'))), ['./', 'a/', 'a/b "y"']);
  await both.refuses(/made "t" a file/, layer(file('t'), symlink('l', 't'), file('l/b')));
});

test('Names: a part of more than 255 bytes, or a path of more than 65,536, is refused', async (both) => {
  await both.refuses(/255/, layer(file('n'.repeat(256))));
  await both.refuses(/a part or a length/, layer(symlink('l', 'n'.repeat(300)), file('l/f')));
  assert.deepEqual(await both.tree(layer(file('n'.repeat(255)))), ['./', `${'n'.repeat(255)} ""`]);
  await both.refuses(/a part or a length/, layer(directory(`${'d'.repeat(200)}/`.repeat(330))));
  // A whiteout lies under the name that it deletes, which may be as long as any.
  const longest = file(`d/${'n'.repeat(255)}`);
  assert.deepEqual(await both.tree(layer(directory('d/'), longest), layer(whiteout(`d/${'n'.repeat(255)}`))), [
    './',
    'd/',
  ]);
  await both.refuses(/255/, layer(directory('d/'), longest), layer(whiteout(`d/${'n'.repeat(256)}`)));
});

test('Root: "./" sets mode, owner and attributes of the root; not listed, it looks as the one below', async (both) => {
  const base = layer(directory('./', { mode: 0o1777, uid: 5, gid: 6, xattrs: { 'user.a': 'b' } }), file('f'));
  assert.deepEqual(await both.tree(base), ['./ 1777 5:6 user.a="b"', 'f ""']);
  assert.deepEqual(await both.tree(base, layer(file('g'))), ['./ 1777 5:6 user.a="b"', 'f ""', 'g ""']);
  assert.deepEqual(await both.tree(base, layer(directory('./', { mode: 0o755 }))), ['./', 'f ""']);
  assert.deepEqual(await both.tree(layer()), ['./']);
});

test('Root: implied directories look as the ones below, nearest first; where there is none, 0755 of root', async (both) => {
  const base = layer(
    directory('tmp/', { mode: 0o1777, uid: 1, mtimeNs: 5n, xattrs: { 'user.x': '1' } }),
    directory('tmp/in/', { mode: 0o700, mtimeNs: 6n }),
  );
  const next = layer(directory('tmp/', { mode: 0o777, gid: 2, mtimeNs: 7n }));
  const top = layer(file('tmp/in/f'), file('new/dir/f'));
  assert.deepEqual(await both.tree(base, next, top), [
    './',
    'new/',
    'new/dir/',
    'new/dir/f ""',
    'tmp/ 777 0:2 @7',
    'tmp/in/ 700 @6',
    'tmp/in/f ""',
  ]);
  // What a whiteout or an opaque marker hides is no model.
  const hidden = layer(file('tmp/.wh.in'), file('tmp/in/f'));
  assert.deepEqual(await both.tree(base, hidden), ['./', 'tmp/ 1777 1:0 @5 user.x="1"', 'tmp/in/', 'tmp/in/f ""']);
  const opaque = layer(file('tmp/.wh..wh..opq'), file('tmp/in/f'));
  assert.deepEqual(await both.tree(base, opaque), ['./', 'tmp/ 1777 1:0 @5 user.x="1"', 'tmp/in/', 'tmp/in/f ""']);
});

test('Duplicates: the last wins, whatever the types', async (both) => {
  const made: Record<string, (n: string) => [Buffer | Uint8Array, string[]]> = {
    file: (n) => [file('x', n), [`x "${n}"`]],
    directory: () => [Buffer.concat([directory('x/'), file('x/in', 'i')]), ['x/', 'x/in "i"']],
    symlink: (n) => [symlink('x', n), [`x -> ${n}`]],
    fifo: () => [
      header({ name: 'x', type: '6', mode: '0000644', uid: '0', gid: '0', size: 0, mtime: '0' }),
      ['x fifo'],
    ],
    hardlink: () => [hardlink('x', 'other'), ['x = other']],
  };
  for (const [a, first] of Object.entries(made)) {
    for (const [b, second] of Object.entries(made)) {
      const [pieces, lines] = second('2');
      const tree = await both.tree(layer(file('other', 'o'), first('1')[0], pieces));
      assert.deepEqual(tree, ['./', 'other "o"', ...lines], `${a} then ${b}`);
    }
  }
});

test('Duplicates: contents of a replaced directory go, a listed one that comes again keeps them', async (both) => {
  const again = layer(
    directory('d/', { mode: 0o700, xattrs: { 'user.a': '1' } }),
    file('d/f'),
    directory('d/', { mode: 0o711 }),
  );
  assert.deepEqual(await both.tree(again), ['./', 'd/ 711', 'd/f ""']);
  const replaced = layer(file('d/e/f'), file('d', 'now'), directory('d/'));
  assert.deepEqual(await both.tree(replaced), ['./', 'd/']);
});

test('Duplicates: rewriting one name of a hard link leaves the other alone', async (both) => {
  const twice = layer(file('a', 'old'), hardlink('b', 'a'), file('a', 'new'));
  assert.deepEqual(await both.tree(twice), ['./', 'a "new"', 'b "old"']);
});

test('Hard links: the target has come before, in this layer or below', async (both) => {
  const base = layer(
    file('f', 'below', { mode: 0o4755, uid: 1, mtimeNs: 9n, xattrs: { 'user.a': 'x' } }),
    directory('d/', { mode: 0o711 }),
    file('d/g', 'deep'),
    symlink('l', 'f', { uid: 4 }),
    header({
      name: 'dev',
      type: '3',
      mode: '0000600',
      uid: '0',
      gid: '0',
      size: 0,
      mtime: '0',
      major: '1',
      minor: '3',
    }),
  );
  const top = layer(
    hardlink('f1', 'f'),
    hardlink('f2', 'f1'),
    hardlink('f3', './f2'),
    hardlink('x/g1', '/d/g'),
    hardlink('l1', 'l'),
    hardlink('dev1', 'dev'),
    hardlink('zero', '../d/../f3'),
  );
  assert.deepEqual(await both.tree(base, top), [
    './',
    'd/ 711',
    'd/g "deep"',
    'dev device 1,3 600',
    'dev1 = dev',
    'f "below" 4755 1:0 @9 user.a="x"',
    'f1 = f',
    'f2 = f',
    'f3 = f',
    'l -> f 4:0',
    'l1 = l',
    'x/',
    'x/g1 = d/g',
    'zero = f',
  ]);
});

test('Hard links: what stands in for a lower file gives way to entries and whiteouts', async (both) => {
  const base = layer(file('f', 'below'));
  assert.deepEqual(await both.tree(base, layer(hardlink('g', 'f'), file('f', 'own'))), ['./', 'f "own"', 'g "below"']);
  assert.deepEqual(await both.tree(base, layer(hardlink('g', 'f'), file('g', 'own'))), ['./', 'f "below"', 'g "own"']);
  const all = layer(hardlink('g', 'f'), file('g', 'own'), file('f', 'too'), hardlink('h', 'g'));
  assert.deepEqual(await both.tree(base, all), ['./', 'f "too"', 'g "own"', 'h = g']);
  const gone = layer(hardlink('d/g', 'f'), file('d', 'own'), file('.wh.f'));
  assert.deepEqual(await both.tree(base, gone), ['./', 'd "own"']);
  const remade = layer(hardlink('d/g', 'f'), file('d', 'own'), file('d2/x'), directory('d/'), file('d/g', 'new'));
  assert.deepEqual(await both.tree(base, remade), ['./', 'd/', 'd/g "new"', 'd2/', 'd2/x ""', 'f "below"']);
  for (const pieces of [
    [hardlink('g', 'f'), file('.wh.f')],
    [file('.wh.f'), hardlink('g', 'f')],
  ]) {
    await both.refuses(/"g".*"f", which the same layer deletes/, base, layer(...pieces));
  }
});

test('Hard links: to a symlink, the symlink itself is linked', async (both) => {
  assert.deepEqual(await both.tree(layer(symlink('l', '/etc/shadow'), hardlink('m', 'l'))), [
    './',
    'l -> /etc/shadow',
    'm = l',
  ]);
});

test('Hard links: to a directory, to itself, to nothing, before its target, with a size: refused by name', async (both) => {
  await both.refuses(/directory "d"/, layer(directory('d/'), hardlink('h', 'd')));
  await both.refuses(/"h".*"d".*is a directory/, layer(directory('d/')), layer(hardlink('h', 'd')));
  await both.refuses(/itself/, layer(file('h'), hardlink('h', 'h')));
  await both.refuses(/itself/, layer(file('h'), hardlink('./x/../h', '/h')));
  await both.refuses(/"h".*"gone".*does not exist/, layer(hardlink('h', 'gone')));
  await both.refuses(/"h".*"gone".*does not exist/, layer(file('f')), layer(hardlink('h', 'gone')));
  await both.refuses(/root of the layer/, layer(hardlink('h', '/')));
  await both.refuses(/root of the layer/, layer(hardlink('h', '../..')));
  await both.refuses(/size/, layer(file('a'), header({ name: 'h', type: '1', link: 'a', size: 5 }), padded('hello')));
  await both.refuses(/replaces/, layer(file('d/f', 'x'), hardlink('d', 'd/f')));
});

test('Hard links: before their target, the target of a lower layer is meant', async (both) => {
  const top = layer(hardlink('h', 'f'), file('f', 'new'));
  assert.deepEqual(await both.tree(layer(file('f', 'old')), top), ['./', 'f "new"', 'h "old"']);
  await both.refuses(/"h".*"f".*does not exist/, top);
});

test('Names: a GNU long name and a PAX name that disagree are refused', async (both) => {
  const long = extended('L', 'gnu\0');
  await both.refuses(/two names/, layer(long, pax({ path: 'pax' }), header({ name: 'x', size: 0 })));
  const same = layer(extended('L', 'same\0'), pax({ path: 'same' }), header({ name: 'x', size: 0, mode: '644' }));
  assert.deepEqual(await both.tree(Buffer.concat([same, END])), ['./', 'same ""']);
});
