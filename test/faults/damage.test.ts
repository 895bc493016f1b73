import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { digestOf, hexOf } from '../../src/base/digest.ts';
import type { ErrorCode, Store } from '../../src/index.ts';
import { bulk, dockerTar, type ImageSpec, idOf, layoutPieces, ociTar, writeLayout } from '../kit/images.ts';
import { directory, file, layer } from '../kit/layer-builder.ts';
import { DRIVERS, withStore } from '../kit/stores.ts';
import { blob, describe, fails, indexOf, MANIFEST_TYPE, OCI, type Piece, tarBytes } from '../transport/archives.ts';
import { leavesNothing } from './unharmed.ts';

// Every layer is whole before the broken one, so that there is something to take back.
const APP: ImageSpec = {
  layers: [layer(directory('etc/'), file('etc/motd', 'hello\n')), bulk(1, 30, 900), bulk(2, 3, 60_000)],
  names: ['docker.io/library/app:1'],
};

/** Rejected, nothing left, and the good one then loads; `store` is as before. */
async function refused(store: Store, archive: Uint8Array, code: ErrorCode, text: RegExp, what: string): Promise<void> {
  await leavesNothing(store, () => store.images.load(streamOf(archive)), fails(code, text), what);
}

async function goodOne(store: Store): Promise<void> {
  assert.equal((await store.images.load(streamOf(ociTar(APP))))[0]?.id, idOf(APP));
  assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  await store.images.remove('app:1');
}

for (const driver of DRIVERS) {
  test(`load() of an archive that is cut off anywhere is corrupt and leaves nothing (${driver})`, async (t) => {
    await withStore(t, driver, async (store, path) => {
      const packed: ImageSpec = { ...APP, compress: 'gzip' };
      for (const [form, archive] of Object.entries({
        layout: ociTar(APP),
        'layout of gzip layers': ociTar(packed),
        'docker archive': dockerTar(APP),
        'gzip around it': gzipSync(ociTar(APP)),
        'zstd around it': zstdCompressSync(ociTar(APP)),
      })) {
        const cuts = form.includes('around') ? [1, 4, 9, 15] : Array.from({ length: 16 }, (_, i) => i);
        for (const sixteenth of cuts) {
          const cut = archive.subarray(0, Math.floor((archive.length * sixteenth) / 16));
          const what = `${form} cut at ${sixteenth}/16`;
          writeFileSync(join(path, 'cut'), cut);
          await leavesNothing(store, () => store.images.load(join(path, 'cut')), fails('corrupt'), what);
          if (sixteenth % 4 === 1) await refused(store, cut, 'corrupt', /./, `${what}, from a pipe`);
        }
      }
      await goodOne(store);
    });
  });

  test(`load() of an archive with a flipped bit is refused or makes the true image, never another (${driver})`, async (t) => {
    await withStore(t, driver, async (store) => {
      const archive = ociTar({ ...APP, compress: 'gzip' });
      for (let i = 0; i < 60; i++) {
        const at = Math.floor((archive.length * (i + 0.37)) / 60);
        const flipped = Buffer.from(archive);
        flipped[at] = (flipped[at] as number) ^ (1 << (i % 8));
        let loaded: { readonly id: string }[];
        try {
          loaded = await store.images.load(streamOf(flipped));
        } catch (error) {
          fails('corrupt')(error);
          continue;
        }
        // A bit of the outer headers that says nothing about the content: a time, an owner, padding.
        assert.deepEqual(
          loaded.map(({ id }) => id),
          [idOf(APP)],
          `bit at ${at}`,
        );
        assert.deepEqual(await store.upkeep.check({ deep: true }), []);
        await store.images.remove(idOf(APP), { force: true });
      }
      await leavesNothing(store, () => store.images.load(streamOf(Buffer.alloc(1))), fails('corrupt'));
      await goodOne(store);
    });
  });

  test(`load() of a lie is refused with the right code: digests, sizes, missing blobs, unknown media types (${driver})`, async (t) => {
    await withStore(t, driver, async (store, path) => {
      for (const [what, code, text, archive] of lies()) await refused(store, archive, code, text, what);
      const layout = writeLayout(join(path, 'layout'), APP);
      writeFileSync(join(layout, 'blobs/sha256', hexOf(digestOf(APP.layers[2] as Buffer))), 'other');
      await leavesNothing(store, () => store.images.load(layout), fails('corrupt', /5 bytes/), 'a layout directory');
      await leavesNothing(store, () => store.images.load(join(path, 'absent')), fails('not-found'), 'no such file');
      await leavesNothing(store, () => store.images.load(path), fails('unsupported', /no index\.json/), 'no layout');
      const mine = new RangeError('mine');
      const failing = (async function* () {
        yield ociTar(APP).subarray(0, 5000);
        throw mine;
      })();
      await leavesNothing(
        store,
        () => store.images.load(failing),
        (error) => error === mine,
        "the caller's own failure",
      );
      await goodOne(store);
    });
  });
}

type Lie = readonly [what: string, code: ErrorCode, text: RegExp, archive: Buffer];

function lies(): Lie[] {
  const [config, wrong] = [configText(APP), `sha256:${'ab'.repeat(32)}`];
  const layers = APP.layers.map((tar) => describe(`${OCI}layer.v1.tar`, tar));
  const manifest = (change: object): string =>
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST_TYPE,
      config: describe(`${OCI}config.v1+json`, config),
      layers,
      ...change,
    });
  /** A layout with that manifest; `without` and `and` change which blobs it holds. */
  const layout = (text: string, and: readonly Piece[] = [], without = ''): Buffer =>
    tarBytes([
      { name: 'oci-layout', content: '{"imageLayoutVersion":"1.0.0"}' },
      { name: 'index.json', content: indexOf(describe(MANIFEST_TYPE, text)) },
      ...[config, text, ...APP.layers].map(blob).filter(({ name }) => name !== without),
      ...and,
    ]);
  const last = APP.layers[2] as Buffer;
  const lastName = `blobs/sha256/${hexOf(digestOf(last))}`;
  const replaced = (change: object): object => ({ layers: [...layers.slice(0, 2), { ...layers[2], ...change }] });
  const configured = (diffIds: readonly string[]): Buffer => {
    const text = JSON.stringify({ ...JSON.parse(config), rootfs: { type: 'layers', diff_ids: diffIds } });
    return layout(manifest({ config: describe(`${OCI}config.v1+json`, text) }), [blob(text)]);
  };
  const diffIds = APP.layers.map((tar) => digestOf(tar));
  const forged = Buffer.from(last);
  forged[forged.length - 2000] = 1;
  const docker = JSON.stringify([{ Config: 'c.json', RepoTags: [], Layers: ['0', '1', '2'] }]);
  return [
    [
      'a blob of another digest',
      'corrupt',
      /^Cannot load layer \d of \d, sha256:\w+: its blob is claimed/,
      layout(manifest({}), [{ name: lastName, content: forged }]),
    ],
    ['a blob of another size', 'corrupt', /bytes/, layout(manifest(replaced({ size: last.length - 512 })))],
    ['a size beyond all numbers', 'corrupt', /./, layout(manifest(replaced({ size: 1e300 })))],
    ['a missing layer', 'corrupt', /does not hold/, layout(manifest({}), [], lastName)],
    [
      'a missing config',
      'corrupt',
      /does not hold/,
      layout(manifest({ config: { ...describe('', 'x'), mediaType: `${OCI}config.v1+json` } })),
    ],
    [
      'a config of another digest',
      'corrupt',
      /./,
      layout(manifest({ config: { ...describe(`${OCI}config.v1+json`, config), digest: wrong } })),
    ],
    [
      'a layer of an unknown media type',
      'unsupported',
      /./,
      layout(manifest(replaced({ mediaType: 'application/x-nobody' }))),
    ],
    [
      'a config of an unknown media type',
      'unsupported',
      /./,
      layout(manifest({ config: describe('text/plain', config) })),
    ],
    ['a wrong diff id', 'corrupt', /: its content is claimed/, configured([...diffIds.slice(0, 2), wrong])],
    [
      'two diff ids in the wrong order',
      'corrupt',
      /: its content is claimed/,
      configured([diffIds[0] as string, diffIds[2] as string, diffIds[1] as string]),
    ],
    ['too few diff ids', 'corrupt', /diff ids/, configured(diffIds.slice(0, 2))],
    ['a digest of another kind', 'corrupt', /./, layout(manifest(replaced({ digest: `md5:${'0'.repeat(32)}` })))],
    ['a manifest that is no JSON', 'corrupt', /./, layout('{')],
    [
      'a docker archive with a wrong layer',
      'corrupt',
      /: its content is claimed/,
      tarBytes([
        { name: 'manifest.json', content: docker },
        { name: 'c.json', content: config },
        ...[...APP.layers.slice(0, 2), forged].map((content, i): Piece => ({ name: `${i}`, content })),
      ]),
    ],
    [
      'a docker archive without one of its layers',
      'corrupt',
      /does not hold/,
      tarBytes([
        { name: 'manifest.json', content: docker },
        { name: 'c.json', content: config },
        ...APP.layers.slice(0, 2).map((content, i): Piece => ({ name: `${i}`, content })),
      ]),
    ],
    ['no image archive', 'unsupported', /./, APP.layers[0] as Buffer],
    ['no archive', 'corrupt', /./, Buffer.alloc(3000, 'text ')],
    ['nothing at all', 'corrupt', /empty/, Buffer.alloc(0)],
    ['a compression that is not read', 'unsupported', /bzip2/, Buffer.from('BZh91AY&SY'.padEnd(600, 'x'))],
    ['gzip of nothing', 'corrupt', /./, gzipSync('')],
    ['gzip that is damaged', 'corrupt', /./, damaged(gzipSync(ociTar(APP)))],
    ['gzip twice', 'unsupported', /./, gzipSync(gzipSync(ociTar(APP)))],
  ];
}

function configText(spec: ImageSpec): string {
  const config = layoutPieces(spec).find(({ content }) => content?.toString().startsWith('{"created"'));
  return config?.content?.toString() ?? '';
}

function damaged(bytes: Buffer): Buffer {
  const middle = bytes.length >> 1;
  bytes.fill(0x55, middle, middle + 64);
  return bytes;
}

function streamOf(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  return (async function* () {
    for (let at = 0; at < bytes.length; at += 65_536) yield bytes.subarray(at, at + 65_536);
  })();
}
