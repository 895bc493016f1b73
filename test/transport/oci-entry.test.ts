import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { after, before, test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { digestOf, hexOf } from '../../src/base/digest.ts';
import type { Bytes } from '../../src/base/values.ts';
import {
  type ArchivedImage,
  layerBlob,
  layerTar,
  type NewImage,
  openArchive,
  writeArchive,
  writeLayout,
} from '../../src/oci-entry.ts';
import { type Scratch, scratch } from '../kit/scratch.ts';
import { collect, describe, fails, indexOf, MANIFEST_TYPE, makeImage, OCI, tarBytes } from './archives.ts';

// What `layerstore/oci` promises of sources and sinks. How broken archives are read is in the neighbours.

const NAME = 'docker.io/library/x:1';
const made = makeImage('entry', { layers: 3 });
const tars = made.tars.map((tar) => digestOf(tar));
/** The layers as a registry has them: each packed in its own way. */
const blobs = made.tars.map((tar, i) => [tar, gzipSync(tar), zstdCompressSync(tar)][i]!);
const manifest = JSON.stringify({
  schemaVersion: 2,
  mediaType: MANIFEST_TYPE,
  config: describe(`${OCI}config.v1+json`, made.config),
  layers: blobs.map((blob, i) => describe(`${OCI}layer.v1.tar${['', '+gzip', '+zstd'][i]}`, blob)),
  annotations: { made: 'elsewhere' },
});
const index = indexOf(describe(MANIFEST_TYPE, manifest, { annotations: { 'io.containerd.image.name': NAME } }));
const pieces = [
  { name: 'oci-layout', content: '{"imageLayoutVersion":"1.0.0"}' },
  { name: 'index.json', content: index },
  ...[made.config, manifest, ...blobs].map((data) => {
    return { name: `blobs/sha256/${hexOf(digestOf(data))}`, content: data };
  }),
];
const archive = tarBytes(pieces);

let dir: Scratch;
const TMPDIR = process.env['TMPDIR'];
before(async () => {
  dir = await scratch('oci-entry');
  // What a call leaves in the system's temporary directory is seen.
  await mkdir(join(dir.path, 'tmp'));
  process.env['TMPDIR'] = join(dir.path, 'tmp');
});
after(async () => {
  if (TMPDIR === undefined) delete process.env['TMPDIR'];
  else process.env['TMPDIR'] = TMPDIR;
  await dir[Symbol.asyncDispose]();
});

async function contentOf(images: readonly ArchivedImage[]): Promise<object[]> {
  const found = [];
  for (const { names, config, layers } of images) {
    const own = [];
    for (const layer of layers) own.push(digestOf(await collect(layerTar(layer))));
    found.push({ names, config: config.bytes.toString(), layers: own });
  }
  return found;
}

const WANTED = [{ names: [NAME], config: made.config, layers: tars }];

async function inOne(source: Bytes): Promise<object[]> {
  await using opened = await openArchive(source);
  return await contentOf(opened.images());
}

async function nothingLeft(): Promise<void> {
  assert.deepEqual(await readdir(join(dir.path, 'tmp')), []);
}

test('openArchive() takes a path, a stream and a web stream, a directory, plain and compressed', async () => {
  const path = join(dir.path, 'layout.tar');
  await writeFile(path, archive);
  await writeFile(`${path}.gz`, gzipSync(archive));
  const layout = join(dir.path, 'layout');
  await mkdir(join(layout, 'blobs/sha256'), { recursive: true });
  for (const { name, content } of pieces) await writeFile(join(layout, name), content);
  const sources: readonly Bytes[] = [
    path,
    `${path}.gz`,
    layout,
    createReadStream(path, { highWaterMark: 3 }),
    Readable.from([zstdCompressSync(archive)]),
    new Blob([archive]).stream() as ReadableStream<Uint8Array>,
  ];
  for (const source of sources) assert.deepEqual(await inOne(source), WANTED);
  await nothingLeft();
});

test('openArchive() says what is wrong with its source, and leaves nothing', async () => {
  const cut = gzipSync(archive).subarray(0, 400);
  await assert.rejects(openArchive(join(dir.path, 'absent')), fails('not-found', /absent/));
  await assert.rejects(openArchive(Readable.from([])), fails('corrupt', /empty/));
  await assert.rejects(openArchive(Readable.from([cut])), fails('corrupt', /inflate/));
  await assert.rejects(openArchive(Readable.from([gzipSync(gzipSync(archive))])), fails('invalid-argument', /gzip/));
  const reason = new Error('enough');
  const aborting = new AbortController();
  const never = new ReadableStream<Uint8Array>({ pull: () => aborting.abort(reason) });
  await assert.rejects(openArchive(never, { signal: aborting.signal }), (error) => error === reason);
  await nothingLeft();
});

test('layerBlob() gives the very bytes, layerTar() the tar; what is not as claimed is corrupt', async () => {
  await using opened = await openArchive(Readable.from([archive]));
  const [image] = opened.images();
  for (const [i, layer] of image!.layers.entries()) {
    assert.deepEqual(await collect(layerBlob(layer)), blobs[i]);
    assert.deepEqual(await collect(layerTar(layer)), made.tars[i]);
  }
  const [one, two] = image!.layers;
  await assert.rejects(collect(layerBlob({ ...one!, digest: digestOf('else') })), fails('corrupt', /blob of a layer/));
  await assert.rejects(
    collect(layerTar({ ...two!, diffId: digestOf('else') })),
    fails('corrupt', /content of a layer/),
  );
});

test('writeArchive() of what was read is read as the same, and in the form oci keeps manifest and blobs', async () => {
  await using opened = await openArchive(Readable.from([archive]));
  for (const format of ['oci', 'docker'] as const) {
    const path = join(dir.path, `${format}.tar`);
    await pipeline(writeArchive(opened.images(), { format }), createWriteStream(path));
    await using again = await openArchive(path);
    const images = again.images();
    assert.deepEqual(await contentOf(images), WANTED, format);
    assert.equal(images[0]!.manifest?.digest, format === 'oci' ? digestOf(manifest) : undefined);
    for (const [i, { blob }] of images[0]!.layers.entries()) {
      assert.equal(blob.length, (format === 'oci' ? blobs : made.tars)[i]!.length, 'docker archives hold plain tars');
    }
    // And from there to a layout: the docker archive has no manifest to keep.
    const layout = join(dir.path, `${format}-layout`);
    await writeLayout(images, layout);
    assert.deepEqual(await inOne(layout), WANTED);
  }
  await nothingLeft();
});

test('writeArchive() takes new images beside old ones, with a tag alone or without a name', async () => {
  const fresh = makeImage('new', { layers: 1 });
  const bytes = fresh.tars[0]!;
  const layer = { diffId: digestOf(bytes), sizeBytes: bytes.length, bytes: () => Readable.from([bytes]) };
  const image: NewImage = { names: ['new:1'], config: Buffer.from(fresh.config), layers: [layer] };
  await using old = await openArchive(Readable.from([archive]));
  const tagged = { ...old.images()[0]!, names: [], tag: 'only-a-tag' };
  const path = join(dir.path, 'both.tar');
  await pipeline(writeArchive([image, tagged]), createWriteStream(path));
  await using both = await openArchive(path);
  assert.deepEqual(
    both.images().map(({ names, tag, config }) => [names, tag, config.digest]),
    [
      [['docker.io/library/new:1'], undefined, digestOf(fresh.config)],
      [[], 'only-a-tag', digestOf(made.config)],
    ],
  );
  const equal = [await collect(writeArchive([image])), await collect(writeArchive([image]))];
  assert.deepEqual(equal[0], equal[1]);

  const lying = { ...image, layers: [{ ...layer, bytes: () => Readable.from([Buffer.alloc(bytes.length)]) }] };
  await assert.rejects(collect(writeArchive([lying])), fails('corrupt', /content of a layer/));
  const short = { ...image, layers: [{ ...layer, sizeBytes: 3 }] };
  await assert.rejects(collect(writeArchive([short])), fails('corrupt', /more than the 3 bytes/));
  await assert.rejects(collect(writeArchive([{ ...image, layers: [] }])), fails('invalid-argument', /diff ids/));
  await assert.rejects(collect(writeArchive([])), fails('invalid-argument', /no image/));
});

test('writeLayout() leaves a directory as it was where it fails, and takes no full one', async () => {
  await using opened = await openArchive(Readable.from([archive]));
  const images = opened.images();
  const full = join(dir.path, 'full');
  await mkdir(full);
  await writeFile(join(full, 'mine'), 'kept');
  await assert.rejects(writeLayout(images, full), fails('already-exists', /not empty/));
  assert.equal(await readFile(join(full, 'mine'), 'utf8'), 'kept');

  const broken = [
    { ...images[0]!, layers: images[0]!.layers.map((layer) => ({ ...layer, digest: digestOf('else') })) },
  ];
  const fresh = join(dir.path, 'fresh/below');
  await assert.rejects(writeLayout(broken, fresh), fails('corrupt'));
  await assert.rejects(readdir(join(dir.path, 'fresh')), { code: 'ENOENT' });
});

test('an archive that nobody reads to its end is let go: a stream that is left holds nothing', async () => {
  await using opened = await openArchive(Readable.from([archive]));
  const reading = Readable.from(writeArchive(opened.images()));
  await once(reading, 'readable');
  reading.destroy();
  await once(reading, 'close');
});
