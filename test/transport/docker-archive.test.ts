import assert from 'node:assert/strict';
import { test } from 'node:test';
import { digestOf, hexOf } from '../../src/base/digest.ts';
import { parsePlatform } from '../../src/oci/platform.ts';
import { readBlob } from '../../src/transport/documents.ts';
import { openArchive } from '../../src/transport/open-archive.ts';
import { scratch } from '../kit/scratch.ts';
import type { Piece } from './archives.ts';
import { blob, contentOf, describe, fails, imagesIn, indexOf, layoutOf, MANIFEST_TYPE, makeImage } from './archives.ts';

const image = makeImage('a');
const configName = `${hexOf(digestOf(image.config))}.json`;
const [bottom, top] = [image.tars[0]!, image.tars[1]!];
const manifest = (...entries: readonly object[]): Piece => ({
  name: 'manifest.json',
  content: JSON.stringify(entries),
});
const entry = { Config: configName, RepoTags: ['x:1', 'ghcr.io/o/x:2'], Layers: ['a/layer.tar', 'b/layer.tar'] };
const whole: readonly Piece[] = [
  { name: 'a/', type: 'directory' },
  { name: 'a/VERSION', content: '1.0' },
  { name: 'a/layer.tar', content: bottom },
  { name: 'b/layer.tar', content: top },
  { name: configName, content: image.config },
  manifest(entry),
];

test('images() reads what docker save wrote before layouts', async () => {
  await using dir = await scratch();
  const [read, ...others] = await imagesIn(dir.path, whole);
  assert.deepEqual(others, []);
  assert.deepEqual(read?.names, ['docker.io/library/x:1', 'ghcr.io/o/x:2']);
  assert.equal(read?.config.digest, digestOf(image.config));
  assert.equal(read?.manifest, undefined);
  assert.deepEqual(
    read?.layers.map((layer) => layer.diffId),
    [digestOf(bottom), digestOf(top)],
  );
  assert.deepEqual((await contentOf(`${dir.path}/archive.tar`))[0]?.layers, [digestOf(bottom), digestOf(top)]);
});

test('images() reads unnamed images and merges entries of one config', async () => {
  await using dir = await scratch();
  const [unnamed] = await imagesIn(dir.path, [...whole, manifest({ ...entry, RepoTags: null })]);
  assert.deepEqual(unnamed?.names, []);
  const merged = await imagesIn(dir.path, [...whole, manifest(entry, { ...entry, RepoTags: ['y:1'] })]);
  assert.deepEqual(
    merged.map((one) => one.names),
    [['docker.io/library/x:1', 'ghcr.io/o/x:2', 'docker.io/library/y:1']],
  );
});

test('images() follows ID/layer.tar links to other members, inside the archive only', async () => {
  await using dir = await scratch();
  const links = async (...pieces: readonly Piece[]): Promise<string> => {
    await imagesIn(dir.path, [...whole.filter(({ name }) => name !== 'b/layer.tar'), ...pieces]);
    await using archive = await openArchive(`${dir.path}/archive.tar`);
    const layer = archive.images()[0]!.layers[1]!;
    return digestOf(readBlob(layer.blob, 'layer'));
  };
  const real = { name: 'c/layer.tar', content: top };
  assert.equal(await links(real, { name: 'b/layer.tar', link: '../c/layer.tar' }), digestOf(top));
  assert.equal(await links({ name: 'b/layer.tar', type: 'hardlink', link: 'c/layer.tar' }, real), digestOf(top));
  assert.equal(
    await links(
      real,
      { name: 'd/layer.tar', link: '../c/layer.tar' },
      { name: 'b/layer.tar', link: '../../../../d/layer.tar' },
    ),
    digestOf(top),
  );
  await assert.rejects(links({ name: 'b/layer.tar', link: 'layer.tar' }), fails('corrupt', /circle/));
  await assert.rejects(links({ name: 'b/layer.tar', link: '/etc/passwd' }), fails('corrupt', /does not hold/));
  await assert.rejects(
    links({ name: 'b/layer.tar', link: '../dir' }, { name: 'dir/', type: 'directory' }),
    fails('corrupt', /directory/),
  );
  await assert.rejects(links({ name: 'b/layer.tar', type: 'fifo' }), fails('corrupt', /fifo/));
  const other = { ...entry, Layers: ['a/layer.tar', 'b.tar'] };
  await assert.rejects(links({ name: 'b.tar', link: 'a/layer.tar' }, manifest(other)), fails('corrupt', /symlink/));
});

test('images() refuses a broken docker archive with one clear line', async () => {
  await using dir = await scratch();
  const bad = (edit: object): readonly Piece[] => [...whole, manifest({ ...entry, ...edit })];
  const table: readonly (readonly [string, readonly Piece[], RegExp, ('corrupt' | 'unsupported')?])[] = [
    ['no layer', whole.filter(({ name }) => name !== 'b/layer.tar'), /b\/layer.tar/],
    ['no config', whole.filter(({ name }) => name !== configName), /does not hold/],
    ['another config', [...whole, { name: configName, content: image.config.replace('linux', 'LINUX') }], /digest/],
    ['a config link', [...whole, { name: configName, link: 'manifest.json' }], /symlink/],
    ['a config elsewhere', bad({ Config: '../../../etc/passwd' }), /does not hold/],
    ['no Config', bad({ Config: undefined }), /Config/],
    ['one layer less', bad({ Layers: ['a/layer.tar'] }), /1 layers.*2 diff ids/],
    ['a name that is none', bad({ RepoTags: ['X Y'] }), /image name/],
    ['layers as text', bad({ Layers: 'a' }), /list/],
    ['a layer as a number', bad({ Layers: [1, 2] }), /string/],
    ['keys in another case', bad({ Config: undefined, config: configName }), /Config/],
    ['not a list', [...whole, { name: 'manifest.json', content: '{}' }], /list/],
    ['a list of text', [...whole, { name: 'manifest.json', content: '["a"]' }], /object/],
    ['an empty list', [...whole, manifest()], /no image/, 'unsupported'],
    [
      'docker before 1.10',
      [
        { name: 'repositories', content: '{}' },
        { name: 'a/layer.tar', content: bottom },
      ],
      /1\.10/,
      'unsupported',
    ],
    ['any other tar', [{ name: 'etc/passwd', content: 'x' }], /manifest.json/, 'unsupported'],
  ];
  for (const [what, pieces, text, code] of table)
    await assert.rejects(imagesIn(dir.path, pieces), fails(code ?? 'corrupt', text), what);
  await assert.rejects(
    imagesIn(dir.path, whole, { platform: parsePlatform('linux/s390x') }),
    fails('not-found', /amd64/),
  );
});

test('images() prefers the layout half of an archive that is both, and takes the other where a blob is missing', async () => {
  await using dir = await scratch();
  const both = [...layoutOf(image), ...whole];
  assert.equal((await imagesIn(dir.path, both))[0]?.manifest?.digest, digestOf(image.manifest));
  assert.equal(
    (await imagesIn(dir.path, [...layoutOf(image), { name: 'manifest.json', content: 'broken' }])).length,
    1,
  );
  for (const lost of [image.manifest, image.config, top]) {
    const [read] = await imagesIn(
      dir.path,
      both.filter(({ name }) => name !== blob(lost).name),
    );
    assert.equal(read?.manifest, undefined);
    assert.deepEqual(read?.names, ['docker.io/library/x:1', 'ghcr.io/o/x:2']);
  }
  const neither = both.filter(({ name }) => name !== blob(top).name && name !== 'b/layer.tar');
  await assert.rejects(imagesIn(dir.path, neither), fails('corrupt', /layer 2 of manifest/));
  // A wrong digest is no missing half.
  const forged = both.map((piece) =>
    piece.name === blob(image.config).name ? { ...piece, content: image.config.replace('linux', 'LINUX') } : piece,
  );
  await assert.rejects(imagesIn(dir.path, forged), fails('corrupt', /digest/));
});

test('images() takes names from manifest.json where the layout half has none', async () => {
  await using dir = await scratch();
  const named = manifest({
    Config: blob(image.config).name,
    RepoTags: ['x:1'],
    Layers: image.tars.map((t) => blob(t).name),
  });
  const index = { name: 'index.json', content: indexOf(describe(MANIFEST_TYPE, image.manifest)) };
  const [read] = await imagesIn(dir.path, [index, named, ...image.blobs]);
  assert.deepEqual([read?.names, read?.manifest?.digest], [['docker.io/library/x:1'], digestOf(image.manifest)]);
});
