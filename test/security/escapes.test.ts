import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, readdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { toText } from '../../src/base/bytes.ts';
import {
  device,
  directory,
  fifo,
  file,
  hardlink,
  layer,
  ociImage,
  type Piece,
  symlink,
  whiteout,
} from '../kit/layer-builder.ts';
import { header } from '../tar/craft.ts';
import { onBothDrivers } from './both.ts';

// security-cases, "Escapes": after each, the canary outside the root is what it was (content, mode, owner, times, link
// count: `Both` looks), and what was meant for it is inside the root or the archive refused.

const test = onBothDrivers();

test('Escapes: absolute and climbing names reach nothing outside (invariant 7)', async (both) => {
  const up = '../'.repeat(20);
  const targets = [both.canary, `${up}${both.canary}`, `a/b/${up}${both.canary}`, `/${up}..//.${both.canary}`];
  for (const target of targets) {
    const tree = await both.tree(
      layer(
        file(`${target}/file`, 'evil', { mode: 0o777 }),
        directory(`${target}/directory/`, { mode: 0o777 }),
        whiteout(`${target}/link`),
      ),
    );
    assert.ok(tree.includes(`${both.canary.slice(1)}/file "evil" 777`), tree.join('\n'));
  }
  await both.refuses(/does not exist/, layer(hardlink('h', `${both.canary}/file`)));
  await both.refuses(/does not exist/, layer(hardlink('h', `${up}${both.canary}/file`)));
  await both.refuses(/root/, layer(file('a/..', 'x')));
});

/** What is tried through a symlink `l` that leads outside. */
const THROUGH: Readonly<Record<string, (l: string) => Piece[]>> = {
  file: (l) => [file(`${l}/file`, 'evil')],
  'new file': (l) => [file(`${l}/new`, 'evil')],
  directory: (l) => [directory(`${l}/directory/`, { mode: 0o777, uid: 9 })],
  'the link as a directory': (l) => [directory(`${l}/`, { mode: 0o777, uid: 9, mtimeNs: 5n })],
  'hard link': (l) => [file('source', 'evil'), hardlink(`${l}/file`, 'source')],
  symlink: (l) => [symlink(`${l}/file`, 'evil')],
  fifo: (l) => [fifo(`${l}/file`)],
  device: (l) => [device(`${l}/file`, 1, 3)],
  whiteout: (l) => [whiteout(`${l}/file`)],
  'whiteout of a directory': (l) => [whiteout(`${l}/directory`)],
  'opaque marker': (l) => [file(`${l}/.wh..wh..opq`)],
  replaced: (l) => [file(`${l}/x/y`), file(`${l}/x`, 'evil')],
  deep: (l) => [file(`${l}/directory/a/b/c`, 'evil')],
  'dot dot': (l) => [file(`${l}/../canary/file`, 'evil')],
};

test('Escapes: nothing goes through a symlink to the outside, in the same layer or across layers', async (both) => {
  const up = '../'.repeat(20);
  const links: Record<string, Piece[]> = {
    absolute: [symlink('l', both.canary)],
    relative: [symlink('l', `${up}${both.canary}`)],
    chain: [symlink('m', both.canary), symlink('l', 'm')],
    stairs: [symlink('r', '/'), symlink('s', `r/${up}`), symlink('l', `s${both.canary}`)],
    magic: [symlink('l', '/proc/self/cwd')],
    root: [symlink('l', '/proc/1/root/')],
  };
  for (const [how, pieces] of Object.entries(links)) {
    for (const [what, through] of Object.entries(THROUGH)) {
      // Each ends inside the root; the comparison of both drivers and of the canary is the test.
      const same = await both.tree(layer(...pieces, ...through('l')));
      assert.ok(same.length > 0, `${how}, ${what}`);
      await both.tree(layer(...pieces), layer(...through('l')));
      await both.tree(layer(...pieces), layer(), layer(...through('l')), layer(whiteout('l')));
    }
  }
});

test('Escapes: a hard link to what a symlink leads to outside finds nothing (CVE-2026-23745)', async (both) => {
  for (const target of ['l/file', 'l/../canary/file', './l//file']) {
    await both.refuses(/does not exist/, layer(symlink('l', both.canary), hardlink('h', target)));
    await both.refuses(/does not exist/, layer(symlink('l', both.canary)), layer(hardlink('h', target)));
  }
  // To the symlink itself it is one more name of the symlink, and a write to that name replaces it.
  const tree = await both.tree(
    layer(
      symlink('l', `${both.canary}/file`),
      hardlink('h', 'l'),
      hardlink('k', 'h'),
      file('h', 'evil', { mode: 0o777 }),
    ),
  );
  assert.deepEqual(tree, ['./', 'h "evil" 777', `k -> ${both.canary}/file`, 'l = k']);
});

test('Escapes: a symlink, then a directory of its name with a mode (CVE-2026-33056)', async (both) => {
  for (const target of [both.canary, `${both.canary}/file`, '/', '..']) {
    const pieces = [symlink('d', target), directory('d/', { mode: 0o777, uid: 1, mtimeNs: 3n })];
    assert.deepEqual(await both.tree(layer(...pieces)), ['./', 'd/ 777 1:0 @3']);
    assert.deepEqual(await both.tree(layer(symlink('d', target)), layer(pieces[1] as Piece)), ['./', 'd/ 777 1:0 @3']);
  }
});

test('Escapes: a directory that becomes a symlink is not remembered as one (CVE-2025-47290)', async (both) => {
  const inside = both.canary.slice(1);
  const swaps = [
    [file('a/b/f', '1'), symlink('a/b', both.canary), file('a/b/file', 'evil')],
    [file('a/b/c/f', '1'), symlink('a', both.canary), file('a/b/c/file', 'evil')],
    [directory('a/'), file('a/f'), symlink('a', both.canary), file('a/file', 'evil')],
    [symlink('l', 'd'), file('l/f'), symlink('d', both.canary), file('l/file', 'evil')],
    [file('d/f'), symlink('l', 'd'), file('l/f'), symlink('l', both.canary), file('l/file', 'evil'), whiteout('l/x')],
  ];
  for (const pieces of swaps) {
    const tree = await both.tree(layer(...pieces));
    assert.ok(
      tree.some((line) => line.startsWith(`${inside}/`) && line.endsWith('file "evil"')),
      tree.join('\n'),
    );
  }
});

test('Escapes: times, modes and attributes that are set last do not follow a swap', async (both) => {
  const tree = await both.tree(
    layer(
      directory('d/', { mode: 0o700, uid: 4, mtimeNs: 77n, xattrs: { 'user.a': '1' } }),
      directory('d/e/', { mode: 0o700, uid: 4, mtimeNs: 77n }),
      symlink('d', both.canary),
      directory('x/', { mtimeNs: 8n }),
      fifo('x'),
      file('gone/.wh.y'),
      symlink('gone', `${both.canary}/directory`),
    ),
  );
  assert.deepEqual(tree, ['./', `d -> ${both.canary}`, `gone -> ${both.canary}/directory`, 'x fifo']);
});

test('Escapes: the root as a symlink, and "/." entries (CVE-2021-29136)', async (both) => {
  for (const name of ['.', './', '/', '/.', './/.', 'a/..']) {
    const raw = header({ name, type: '2', link: both.canary, mode: '777', size: 0 });
    await both.refuses(/the root of a layer is a directory/, layer(raw, file('f', 'evil')));
  }
  const dot = header({ name: '/.', type: '5', mode: '0000711', uid: '0', gid: '0', mtime: '0', size: 0 });
  assert.deepEqual(await both.tree(layer(dot, file('/./f', 'x'))), ['./ 711', 'f "x"']);
});

test('Escapes: fifos and devices already in the way are replaced, never opened', async (both) => {
  for (const blocking of [fifo('f'), device('f', 1, 3), device('f', 5, 1)]) {
    assert.deepEqual(await both.tree(layer(blocking, file('f', 'x'))), ['./', 'f "x"']);
    assert.deepEqual(await both.tree(layer(blocking), layer(file('f', 'x'))), ['./', 'f "x"']);
    const linked = await both.tree(layer(blocking), layer(hardlink('g', 'f')));
    assert.equal(linked[2], 'g = f');
    await both.refuses(/no directory/, layer(blocking, file('f/x')));
  }
});

test('Escapes: directories with a common prefix are not each other (CVE-2025-59343)', async (both) => {
  const name = both.canary.split('/').at(-1) as string;
  const tree = await both.tree(layer(symlink('l', `../${name}-evil`), file('l/f', 'x'), file(`../${name}2/f`)));
  assert.deepEqual(tree, [
    './',
    `${name}-evil/`,
    `${name}-evil/f "x"`,
    `${name}2/`,
    `${name}2/f ""`,
    `l -> ../${name}-evil`,
  ]);
});

test('Escapes: magic links and device trees of /proc and /dev are names like any other', async (both) => {
  const tree = await both.tree(
    layer(
      symlink('fd', '/proc/self/fd'),
      file('fd/3', 'x'),
      symlink('proc/thread-self/fd/7', both.canary),
      file('proc/thread-self/fd/7/file', 'evil'),
      symlink('cwd', '/proc/self/cwd/..'),
      file('cwd/f', 'y'),
    ),
  );
  assert.ok(tree.includes('proc/self/fd/3 "x"') && tree.includes('proc/self/f "y"'), tree.join('\n'));
});

test('Escapes: what is legitimate keeps working: absolute links, /var/run, trees of pnpm', async (both) => {
  const tree = await both.tree(
    layer(
      directory('usr/bin/'),
      symlink('bin', '/usr/bin'),
      file('bin/sh', '#!'),
      symlink('var/run', '/run'),
      directory('run/lock/'),
      file('var/run/lock/x'),
      file('store/a/node_modules/a/index.js', 'a'),
      symlink('store/a/node_modules/b', '../../b/node_modules/b'),
      file('store/b/node_modules/b/index.js', 'b'),
      symlink('node_modules/a', '../store/a/node_modules/a'),
      hardlink('node_modules/a/copy.js', 'store/a/node_modules/b/index.js'),
    ),
  );
  assert.deepEqual(tree, [
    './',
    'bin -> /usr/bin',
    'node_modules/',
    'node_modules/a -> ../store/a/node_modules/a',
    'run/',
    'run/lock/',
    'run/lock/x ""',
    'store/',
    'store/a/',
    'store/a/node_modules/',
    'store/a/node_modules/a/',
    'store/a/node_modules/a/copy.js "b"',
    'store/a/node_modules/a/index.js "a"',
    'store/a/node_modules/b -> ../../b/node_modules/b',
    'store/b/',
    'store/b/node_modules/',
    'store/b/node_modules/b/',
    'store/b/node_modules/b/index.js = store/a/node_modules/a/copy.js',
    'usr/',
    'usr/bin/',
    'usr/bin/sh "#!"',
    'var/',
    'var/run -> /run',
  ]);
});

test('Escapes: somebody renames directories and leaves while a layer is unpacked (CVE-2021-32760)', async (both) => {
  const pieces = Array.from({ length: 4000 }, (_, i) => [
    ...(i % 20 === 0 ? [directory(`d${i / 20}/`, { mode: 0o777, uid: 9 })] : []),
    i % 3 === 0
      ? fifo(`d${Math.floor(i / 20)}/f${i}`, { mode: 0o777, uid: 9 })
      : file(`d${Math.floor(i / 20)}/f${i}`, 'evil', { mode: 0o4777, uid: 9 }),
  ]).flat();
  for (const store of both.stores) {
    let going = true;
    let swaps = 0;
    const home = store.driver.home;
    // The staging and layer directories as their owner sees them; every few microseconds another name is a link out.
    const racer = async (): Promise<void> => {
      while (going) {
        for (const root of layerRoots(home)) {
          for (const name of namesIn(root).slice(-2)) {
            try {
              if (lstatSync(`${root}/${name}`).isSymbolicLink()) continue;
              renameSync(`${root}/${name}`, `${root}/moved-${name}`);
              symlinkSync(both.canary, `${root}/${name}`);
              swaps++;
            } catch {
              // it is gone, or came between
            }
          }
        }
        await new Promise((done) => setImmediate(done));
      }
    };
    const racing = racer();
    const bytes = ociImage([layer(...pieces)]);
    try {
      const [image] = await store.images.load(
        (async function* () {
          yield bytes;
        })(),
      );
      if (image !== undefined) await store.images.remove(image.id, { force: true });
    } catch (error) {
      assert.ok(error instanceof Error); // to be disturbed is no crime; to reach outside is
    } finally {
      going = false;
      await racing;
    }
    assert.ok(swaps > 0, 'nothing was swapped: the race was never run');
    for (const root of layerRoots(home)) rmSync(root, { recursive: true, force: true });
  }
  await both.tree(layer(file('f')));
});

/** A staging directory may be gone since it was listed. */
function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function layerRoots(home: string): string[] {
  const places = [home, `${home}/dir`].filter((path) => existsSync(path));
  return places.flatMap((place) =>
    readdirSync(place)
      .filter((name) => name.startsWith('.applying-') || /^[0-9a-f]{64}$/.test(name))
      .map((name) => (existsSync(`${place}/${name}/diff`) ? `${place}/${name}/diff` : `${place}/${name}`)),
  );
}

test('Escapes: trees deeper than PATH_MAX are unpacked, given back byte for byte, and removed', async (both) => {
  const deep = (depth: number, name: string): string => `${name}/`.repeat(depth);
  const long = deep(40, 'd'.repeat(200)); // 8,040 bytes
  const tar = layer(
    file(`${long}f`, 'deep'),
    hardlink('near', `${long}f`),
    directory(`${long}e/`, { mode: 0o700 }),
    symlink(`${long}up`, '../'.repeat(50)),
    file(`${long}up/top`, 'x'),
    file(`${deep(4_000, 'a')}f`, 'deeper'),
  );
  const next = layer(whiteout(`${long}e`), hardlink(`${long}g`, `${long}f`), file(`${deep(4_000, 'a')}g`));
  await both.each([tar, next], async (store, image) => {
    const layers = await store.layers.stored(image.id);
    assert.deepEqual(
      layers.map(({ exact }) => exact.holds),
      [true, true],
    );
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    await using view = await store.layers.view(image.id);
    const { stdout } = spawnSync('find', ['.', '-depth', '-type', 'f', '-printf', '%s %f %d\n'], {
      cwd: toText(view.path),
      encoding: 'utf8',
    });
    assert.deepEqual(stdout.trim().split('\n').sort(), [
      '0 g 4001',
      '1 top 1',
      '4 f 41',
      '4 g 41',
      '4 near 1',
      '6 f 4001',
    ]);
  });
});
