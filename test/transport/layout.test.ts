import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { test } from 'node:test';
import { digestOf, hexOf } from '../../src/base/digest.ts';
import { parsePlatform } from '../../src/oci/platform.ts';
import { openArchive } from '../../src/transport/open-archive.ts';
import { scratch } from '../kit/scratch.ts';
import type { Piece } from './archives.ts';
import {
  blob,
  contentOf,
  describe,
  fails,
  INDEX_TYPE,
  imagesIn,
  imagesOf,
  indexOf,
  layoutOf,
  MANIFEST_TYPE,
  makeImage,
  OCI,
  tarBytes,
} from './archives.ts';

const NAME = 'io.containerd.image.name';
const REF = 'org.opencontainers.image.ref.name';
const amd64 = parsePlatform('linux/amd64');
const arm64 = parsePlatform('linux/arm64');

async function directoryOf(path: string, pieces: readonly Piece[]): Promise<string> {
  for (const { name, content } of pieces) {
    await mkdir(dirname(`${path}/${name}`), { recursive: true });
    await writeFile(`${path}/${name}`, content ?? '');
  }
  return path;
}
const index = (pieces: readonly Piece[], content: string): readonly Piece[] => [
  { name: 'index.json', content },
  ...pieces,
];
const platform = (architecture: string): object => ({ platform: { os: 'linux', architecture } });

test('openArchive() reads the same image from a layout directory and from its tar', async () => {
  await using dir = await scratch();
  const image = makeImage('a');
  const wanted = [
    { names: ['docker.io/library/x:1'], config: image.config, layers: image.tars.map((t) => digestOf(t)) },
  ];
  await writeFile(`${dir.path}/a.tar`, tarBytes(layoutOf(image)));
  assert.deepEqual(await contentOf(`${dir.path}/a.tar`), wanted);
  assert.deepEqual(await contentOf(await directoryOf(`${dir.path}/d`, layoutOf(image))), wanted);
  const [read] = await imagesOf(`${dir.path}/a.tar`);
  assert.equal(read?.manifest?.digest, digestOf(image.manifest));
  assert.equal(read?.manifest?.bytes.toString(), image.manifest);
  assert.equal(read?.config.digest, digestOf(image.config));
  assert.deepEqual(read?.platform, amd64);
});

test('images() finds members by their cleaned names, the last of equal ones', async () => {
  await using dir = await scratch();
  const image = makeImage('a');
  const pieces = layoutOf(image).map((piece, i) => ({
    ...piece,
    name: `${['./', '/', 'x/../', '../', './/'][i % 5]}${piece.name}`,
  }));
  const images = await imagesIn(dir.path, [
    { name: 'index.json', content: 'old' },
    ...pieces,
    { name: './unrelated', link: '/etc/passwd' },
  ]);
  assert.equal(images[0]?.layers.length, 2);
});

test('images() takes names from both annotations, and none that is not one', async () => {
  await using dir = await scratch();
  const image = makeImage('a');
  const table: readonly (readonly [object, readonly string[], (string | undefined)?, (readonly RegExp[])?])[] = [
    [{ [NAME]: 'docker.io/library/x:1', [REF]: '1' }, ['docker.io/library/x:1']],
    [{ [NAME]: 'docker.io/library/x:1', [REF]: '2' }, ['docker.io/library/x:2']],
    [{ [REF]: 'x:1' }, ['docker.io/library/x:1']],
    [{ [REF]: 'ghcr.io/o/x' }, ['ghcr.io/o/x:latest']],
    [{ [NAME]: 'a:1', [REF]: 'b:2' }, ['docker.io/library/a:1', 'docker.io/library/b:2']],
    [{ [REF]: 'v1.0' }, [], 'v1.0'],
    [
      { [NAME]: 'NOT A NAME', [REF]: '\u001b[2J' },
      [],
      undefined,
      [
        /^its io.containerd.image.name "NOT A NAME" is no name/,
        /^its org.opencontainers.image.ref.name "\\x1b\[2J" is no name/,
      ],
    ],
    [{ [NAME]: `x@${digestOf('other')}` }, [], undefined, [/"x@sha256:/]],
    [{ [NAME]: 'x:1', [REF]: 'UPPER:1' }, ['docker.io/library/x:1'], undefined, [/"UPPER:1"/]],
    [{ [NAME]: `x@${digestOf(image.manifest)}` }, [`docker.io/library/x@${digestOf(image.manifest)}`]],
    [{}, []],
  ];
  for (const [annotations, names, tag, notes = []] of table) {
    const [read] = await imagesIn(
      dir.path,
      index(image.blobs, indexOf(describe(MANIFEST_TYPE, image.manifest, { annotations }))),
    );
    assert.deepEqual([read?.names, read?.tag], [names, tag], JSON.stringify(annotations));
    assert.equal(read?.notes?.length ?? 0, notes.length, JSON.stringify(annotations));
    for (const [i, note] of notes.entries()) assert.match(read?.notes?.[i] ?? '', note);
  }
  // umoci copies containerd's annotation along with the entry that it repacks.
  const other = makeImage('b');
  const repacked = await imagesIn(
    dir.path,
    index(
      [...image.blobs, ...other.blobs],
      indexOf(
        describe(MANIFEST_TYPE, image.manifest, { annotations: { [NAME]: 'x:1', [REF]: '1' } }),
        describe(MANIFEST_TYPE, other.manifest, { annotations: { [NAME]: 'x:1', [REF]: '2' } }),
      ),
    ),
  );
  assert.deepEqual(
    repacked.map(({ names }) => names),
    [['docker.io/library/x:1'], ['docker.io/library/x:2']],
  );
  const twice = ['a:1', 'b:1'].map((name) =>
    describe(MANIFEST_TYPE, image.manifest, { annotations: { [NAME]: name } }),
  );
  const images = await imagesIn(dir.path, index(image.blobs, indexOf(...twice)));
  assert.deepEqual(
    images.map((one) => one.names),
    [['docker.io/library/a:1', 'docker.io/library/b:1']],
  );
});

test('images() takes every image of one name and platform; the last in the index keeps the name, which is said', async () => {
  await using dir = await scratch();
  const [a, b, arm] = [makeImage('a'), makeImage('b'), makeImage('arm', { architecture: 'arm64' })];
  const entry = (image: { readonly manifest: string }, name: string, more: object = {}): object =>
    describe(MANIFEST_TYPE, image.manifest, { annotations: { [NAME]: name }, ...more });
  const blobs = [...a.blobs, ...b.blobs, ...arm.blobs];
  const read = async (...entries: readonly object[]): Promise<readonly (readonly unknown[])[]> =>
    (await imagesIn(dir.path, index(blobs, indexOf(...entries)), { platform: amd64 })).map(
      ({ config, names, notes }) => [JSON.parse(config.bytes.toString()).author, names, notes?.length ?? 0],
    );
  const x = 'docker.io/library/x:1';
  assert.deepEqual(await read(entry(a, 'x:1'), entry(arm, 'x:1'), entry(b, 'x:1')), [
    ['a', [], 1],
    ['b', [x], 0],
  ]);
  assert.deepEqual(await read(entry(b, 'x:1'), entry(a, 'x:1')), [
    ['b', [], 1],
    ['a', [x], 0],
  ]);
  // Whatever it is called besides.
  assert.deepEqual(await read(entry(a, 'x:1', { annotations: { [NAME]: 'y:1', [REF]: 'x:1' } }), entry(b, 'x:1')), [
    ['a', ['docker.io/library/y:1'], 1],
    ['b', [x], 0],
  ]);
  // Two spellings of one name, and one image twice, are no quarrel.
  assert.deepEqual(await read(entry(a, 'x:1'), entry(a, x)), [['a', [x], 0]]);
  const [first] = await imagesIn(dir.path, index(blobs, indexOf(entry(a, 'x:1'), entry(b, 'x:1'))));
  assert.deepEqual(first?.notes, [
    `${digestOf(a.config)} is without the name "x:1": a later image of the archive has it too, and takes it`,
  ]);
});

test('images() takes one image of an index inside the index, the first that fits', async () => {
  await using dir = await scratch();
  const [a, b] = [makeImage('a'), makeImage('b')];
  const list = indexOf(describe(MANIFEST_TYPE, a.manifest), describe(MANIFEST_TYPE, b.manifest));
  const pieces = index(
    [...a.blobs, ...b.blobs, blob(list)],
    indexOf(describe(INDEX_TYPE, list, { annotations: { [NAME]: 'x:1' } })),
  );
  const images = await imagesIn(dir.path, pieces, { platform: amd64 });
  assert.deepEqual(
    images.map(({ config, notes }) => [config.bytes.toString(), notes]),
    [[a.config, undefined]],
  );
});

test('images() chooses the platform from nested indexes and passes over what is no image', async () => {
  await using dir = await scratch();
  const [amd, arm] = [makeImage('amd'), makeImage('arm', { architecture: 'arm64' })];
  const list = indexOf(
    describe(MANIFEST_TYPE, 'attestation', { platform: { os: 'unknown', architecture: 'unknown' } }),
    describe(MANIFEST_TYPE, 'another', { annotations: { 'vnd.docker.reference.type': 'attestation-manifest' } }),
    describe('application/vnd.example+json', 'artifact'),
    describe(MANIFEST_TYPE, 'not held', platform('s390x')),
    describe(MANIFEST_TYPE, amd.manifest, platform('amd64')),
    describe(MANIFEST_TYPE, arm.manifest), // its config says what it is for
  );
  const pieces = index(
    [...amd.blobs, ...arm.blobs, blob(list)],
    indexOf(describe(INDEX_TYPE, list, { annotations: { [NAME]: 'x:1' } })),
  );
  const take = async (asked: string): Promise<string | undefined> =>
    (await imagesIn(dir.path, pieces, { platform: parsePlatform(asked) }))[0]?.config.bytes.toString();
  assert.equal(await take('linux/amd64'), amd.config);
  assert.equal(await take('linux/arm64'), arm.config);
  for (const absent of ['linux/s390x', 'linux/riscv64', 'windows/amd64'])
    await assert.rejects(take(absent), fails('not-found', /amd64.*arm64/));

  const flat = index(
    [...amd.blobs, ...arm.blobs],
    indexOf(describe(MANIFEST_TYPE, amd.manifest), describe(MANIFEST_TYPE, arm.manifest)),
  );
  assert.equal((await imagesIn(dir.path, flat, { platform: arm64 }))[0]?.config.bytes.toString(), arm.config);
  assert.equal((await imagesIn(dir.path, flat, { platform: amd64 })).length, 1);
});

test('images() takes the only image that is held whatever its platform, unless one is asked for', async () => {
  await using dir = await scratch();
  const image = makeImage('a', { architecture: 's390x' });
  assert.equal((await imagesIn(dir.path, layoutOf(image))).length, 1);
  await assert.rejects(imagesIn(dir.path, layoutOf(image), { platform: amd64 }), fails('not-found', /s390x/));
});

test('images() takes all unnamed images of one platform', async () => {
  await using dir = await scratch();
  const [a, b] = [makeImage('a', { architecture: 'arm64' }), makeImage('b', { architecture: 'arm64' })];
  const pieces = index(
    [...a.blobs, ...b.blobs],
    indexOf(describe(MANIFEST_TYPE, a.manifest), describe(MANIFEST_TYPE, b.manifest)),
  );
  assert.equal((await imagesIn(dir.path, pieces, { platform: arm64 })).length, 2);
  assert.equal((await imagesIn(dir.path, pieces)).length, 2);
});

test('images() reads eight levels of indexes, refuses nine, and is linear where indexes repeat each other', async () => {
  await using dir = await scratch();
  const image = makeImage('a');
  const nested = (levels: number): readonly Piece[] => {
    const blobs: Piece[] = [...image.blobs];
    let below = describe(MANIFEST_TYPE, image.manifest);
    for (let i = 0; i < levels; i++) {
      const list = indexOf(...Array(200).fill(below));
      blobs.push(blob(list));
      below = describe(INDEX_TYPE, list);
    }
    return index(blobs, indexOf(below));
  };
  assert.equal((await imagesIn(dir.path, nested(8))).length, 1);
  await assert.rejects(imagesIn(dir.path, nested(9)), fails('corrupt', /deep/));
});

test('images() refuses a broken layout with one clear line', async () => {
  await using dir = await scratch();
  const image = makeImage('a');
  const whole = layoutOf(image);
  const without = (data: string | Uint8Array): readonly Piece[] =>
    whole.filter((piece) => piece.name !== blob(data).name);
  const changed = (data: string | Uint8Array, content: string | Uint8Array): readonly Piece[] =>
    whole.map((piece) => (piece.name === blob(data).name ? { ...piece, content } : piece));
  const documents = JSON.parse(image.manifest) as { layers: Record<string, unknown>[]; config: object };
  const withManifest = (edit: (m: typeof documents) => object): readonly Piece[] => {
    const manifest = JSON.stringify(edit(structuredClone(documents)));
    return [...index([], indexOf(describe(MANIFEST_TYPE, manifest))), blob(manifest), ...image.blobs];
  };
  const layer0 = image.tars[0]!;
  const hex = hexOf(digestOf(layer0));
  const evil = `blobs/sha256/${hex}`;
  const table: readonly (readonly [string, readonly Piece[], RegExp, ('corrupt' | 'unsupported')?])[] = [
    ['no manifest blob', without(image.manifest), /does not hold/],
    ['no config blob', without(image.config), /does not hold/],
    ['no layer blob', without(layer0), new RegExp(`layer 1 .*${hex}`)],
    ['another config', changed(image.config, image.config.replace('linux', 'LINUX')), /digest/],
    ['another manifest', changed(image.manifest, image.manifest.replace('.tar', '.TAR')), /digest/],
    ['a longer layer', changed(layer0, Buffer.concat([layer0, Buffer.alloc(512)])), /descriptor says/],
    [
      'a size that lies',
      withManifest((m) => ({ ...m, layers: [{ ...m.layers[0], size: 3 }, m.layers[1]] })),
      /descriptor says 3/,
    ],
    ['one layer less', withManifest((m) => ({ ...m, layers: m.layers.slice(1) })), /1 layers.*2 diff ids/],
    [
      'an unknown layer',
      withManifest((m) => ({ ...m, layers: m.layers.map((l) => ({ ...l, mediaType: `${OCI}layer.v1.tar+xz` })) })),
      /media type/,
      'unsupported',
    ],
    [
      'an artifact',
      withManifest((m) => ({ ...m, config: { ...m.config, mediaType: 'application/vnd.oci.empty.v1+json' } })),
      /media type/,
      'unsupported',
    ],
    [
      'a foreign layer',
      withManifest((m) => ({
        ...m,
        layers: m.layers.map((l, i) => (i === 0 ? { ...l, digest: digestOf('far'), urls: ['http://x'] } : l)),
      })),
      /nothing is fetched/,
    ],
    ['manifest and index at once', withManifest((m) => ({ ...m, manifests: [] })), /at once/],
    ['an index that is a manifest', index(image.blobs, image.manifest), /not an index/],
    ['an empty index', index(image.blobs, indexOf()), /no container image/, 'unsupported'],
    ['index.json not JSON', index(image.blobs, 'x'), /index.json.*JSON/],
    ['a huge index.json', index(image.blobs, `{"a":"${'a'.repeat(5 << 20)}"}`), /at most/],
    [
      'a layout of version 2',
      [...whole, { name: 'oci-layout', content: '{"imageLayoutVersion":"2.0.0"}' }],
      /version/,
      'unsupported',
    ],
    ['no index.json', whole.filter(({ name }) => name !== 'index.json'), /no index.json/],
    ['a blob that is a symlink', [...without(layer0), { name: evil, link: '/etc/passwd' }], /symlink/],
    ['a blob that is a hard link', [...whole, { name: evil, type: 'hardlink', link: 'index.json' }], /hardlink/],
    ['a blob that is a fifo', [...without(layer0), { name: evil, type: 'fifo' }], /fifo/],
    ['a blob that is sparse', [...without(layer0), { name: evil, content: layer0, sparse: true }], /sparse/],
    ['a blob that is a device', [...without(layer0), { name: evil, type: 'block-device' }], /device/],
    ['a blob that is a directory', [...without(layer0), { name: `${evil}/`, type: 'directory' }], /directory/],
    ['an index.json that is a symlink', [...whole, { name: 'index.json', link: 'oci-layout' }], /symlink/],
  ];
  for (const [what, pieces, text, code] of table) {
    await assert.rejects(imagesIn(dir.path, pieces), fails(code ?? 'corrupt', text), what);
  }
});

test('openArchive() refuses what is cut off, empty or no archive', async () => {
  await using dir = await scratch();
  const bytes = tarBytes([...makeImage('a').blobs, ...layoutOf(makeImage('a')).slice(0, 2)]);
  for (let cut = 0; cut < bytes.length - 1024; cut += 256) {
    await assert.rejects(imagesIn(dir.path, bytes.subarray(0, cut)), fails('corrupt'), `${cut}`);
  }
  const big = tarBytes([{ name: 'big', content: Buffer.alloc(3 << 20) }]);
  await assert.rejects(imagesIn(dir.path, big.subarray(0, 2 << 20)), fails('corrupt', /cut off/));
  await assert.rejects(imagesIn(dir.path, Buffer.from('hello, world\n'.repeat(100))), fails('corrupt'));
  await assert.rejects(imagesIn(dir.path, Buffer.from([0x1f, 0x8b, 8, 0])), fails('invalid-argument', /gzip/));
  await assert.rejects(
    imagesIn(dir.path, Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 1, 2, 3, 4])),
    fails('unsupported', /xz/),
  );
  await assert.rejects(openArchive(`${dir.path}/absent`), fails('not-found'));
  execFileSync('mkfifo', [`${dir.path}/fifo`]);
  await assert.rejects(openArchive(`${dir.path}/fifo`), fails('invalid-argument', /ordinary/));
  await mkdir(`${dir.path}/empty`);
  await assert.rejects(imagesOf(`${dir.path}/empty`), fails('unsupported', /index.json/));
});

test('images() follows no symlink of a layout directory and waits for no fifo', async () => {
  await using dir = await scratch();
  const image = makeImage('a');
  const outside = await directoryOf(`${dir.path}/outside`, layoutOf(image));
  const blobPath = blob(image.tars[0]!).name;
  const edits: readonly (readonly [string, (path: string) => Promise<unknown>])[] = [
    [
      'blobs',
      async (p) => {
        await rm(`${p}/blobs`, { recursive: true });
        await symlink(`${outside}/blobs`, `${p}/blobs`);
      },
    ],
    [
      'blobs/sha256',
      async (p) => {
        await rm(`${p}/blobs/sha256`, { recursive: true });
        await symlink(`${outside}/blobs/sha256`, `${p}/blobs/sha256`);
      },
    ],
    [
      'a blob',
      async (p) => {
        await rm(`${p}/${blobPath}`);
        await symlink(`${outside}/${blobPath}`, `${p}/${blobPath}`);
      },
    ],
    [
      'a blob, inside',
      async (p) => {
        await rename(`${p}/${blobPath}`, `${p}/real`);
        await symlink('../../real', `${p}/${blobPath}`);
      },
    ],
    [
      'index.json',
      async (p) => {
        await rm(`${p}/index.json`);
        await symlink(`${outside}/index.json`, `${p}/index.json`);
      },
    ],
    [
      'a fifo',
      async (p) => {
        await rm(`${p}/${blobPath}`);
        execFileSync('mkfifo', [`${p}/${blobPath}`]);
      },
    ],
    [
      'a fifo as index',
      async (p) => {
        await rm(`${p}/index.json`);
        execFileSync('mkfifo', [`${p}/index.json`]);
      },
    ],
    [
      'a directory',
      async (p) => {
        await rm(`${p}/${blobPath}`);
        await mkdir(`${p}/${blobPath}`);
      },
    ],
    [
      'a file as blobs',
      async (p) => {
        await rm(`${p}/blobs`, { recursive: true });
        await writeFile(`${p}/blobs`, '');
      },
    ],
  ];
  for (const [i, [what, edit]] of edits.entries()) {
    const path = await directoryOf(`${dir.path}/${i}`, layoutOf(image));
    await edit(path);
    await assert.rejects(imagesOf(path), fails('corrupt', /symlink|not a|ordinary/), what);
  }
});
