import assert from 'node:assert/strict';
import { test } from 'node:test';
import { digestOf } from '../../src/base/digest.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { parseConfig } from '../../src/oci/config.ts';
import { own, parseJson, parseJsonObject, textMapAt } from '../../src/oci/json.ts';
import { encodeManifest, parseManifest } from '../../src/oci/manifest.ts';
import { mediaKind, OCI_LAYER_TAR, requireKind } from '../../src/oci/media-type.ts';

const D = digestOf('x');
const OCI = 'application/vnd.oci.image.';
const layer = { mediaType: `${OCI}layer.v1.tar+gzip`, digest: D, size: 1 };
const config = { mediaType: `${OCI}config.v1+json`, digest: D, size: 1 };
const entry = { mediaType: `${OCI}manifest.v1+json`, digest: D, size: 1 };
const bytes = (value: unknown): Buffer => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value));
const code =
  (wanted: string, text = /./) =>
  (error: unknown): boolean =>
    isStorageError(error) && error.code === wanted && text.test(error.message) && !error.message.includes('\n');

test('parseJson() refuses what is not one bounded UTF-8 JSON document', () => {
  const table: readonly (readonly [string, Buffer, RegExp])[] = [
    ['nothing', bytes(''), /not JSON/],
    ['a trailing comma', bytes('{"a":1,}'), /not JSON/],
    ['a second document', bytes('{}{}'), /not JSON/],
    ['a byte order mark', bytes('\ufeff{}'), /not JSON/],
    ['invalid UTF-8', Buffer.from([0x22, 0xc3, 0x28, 0x22]), /UTF-8/],
    ['too long', bytes(`"${'a'.repeat(100)}"`), /at most 100/],
    ['too deep', bytes(`${'['.repeat(50)}${']'.repeat(50)}`), /./],
  ];
  for (const [what, data, text] of table.slice(0, -1)) {
    assert.throws(() => parseJson(data, 'it', 100), code('corrupt', text), what);
  }
  assert.throws(() => parseJson(bytes('['.repeat(1e6)), 'it', 4 << 20), code('corrupt', /nests/));
  assert.throws(() => parseJson(bytes(`[${'[],'.repeat(1e6)}0]`), 'it', 16 << 20), code('corrupt', /values/));
  for (const other of ['[]', '1', 'null', '"{}"']) {
    assert.throws(() => parseJsonObject(bytes(other), 'it', 100), code('corrupt', /not an object/));
  }
});

test('own() finds the last of equal keys, no inherited ones, by exact case', () => {
  const object = parseJsonObject(bytes('{"a":1,"A":2,"a":3,"n":null,"__proto__":{"x":1}}'), 'it', 100);
  assert.equal(own(object, 'a'), 3);
  assert.equal(own(object, 'A'), 2);
  assert.equal(own(object, 'n'), undefined);
  assert.equal(own(object, 'constructor'), undefined);
  assert.equal(own(object, 'x'), undefined);
  assert.deepEqual(Object.keys(own(object, '__proto__') as object), ['x']);
  const labels = parseJsonObject(bytes('{"l":{"__proto__":"p","constructor":"c"}}'), 'it', 100);
  assert.deepEqual(
    [...textMapAt(labels, 'l', 'it')],
    [
      ['__proto__', 'p'],
      ['constructor', 'c'],
    ],
  );
});

test('parseManifest() tells manifests from indexes and reads their descriptors', () => {
  const manifest = parseManifest(bytes({ schemaVersion: 2, config, layers: [layer] }), 'm', `${OCI}manifest.v1+json`);
  assert.equal(manifest.kind, 'manifest');
  assert.equal(manifest.kind === 'manifest' && manifest.layers[0]?.sizeBytes, 1);
  const index = parseManifest(
    bytes({
      schemaVersion: 2,
      manifests: [
        {
          ...entry,
          platform: { os: 'linux', architecture: 'aarch64', variant: 'v8' },
          annotations: { __proto__x: 'y' },
        },
      ],
    }),
    'i',
  );
  assert.ok(index.kind === 'index');
  assert.deepEqual(index.manifests[0]?.platform, { os: 'linux', architecture: 'arm64' });
  assert.equal(index.manifests[0]?.annotations.get('__proto__x'), 'y');
  assert.equal(parseManifest(bytes({ schemaVersion: 2, config, layers: null }), 'm').kind, 'manifest');
});

test('parseManifest() refuses documents that could be read in two ways or not at all', () => {
  const whole = { schemaVersion: 2, config, layers: [layer] };
  const table: readonly (readonly [string, unknown, RegExp, string?])[] = [
    ['both (CVE-2021-41190)', { ...whole, manifests: [] }, /at once/],
    ['both, of which one is null', { ...whole, manifests: null }, /at once/],
    ['an index with a config', { schemaVersion: 2, manifests: [], config }, /at once/],
    ['neither', { schemaVersion: 2 }, /neither/],
    ['no version', { config, layers: [] }, /schemaVersion/],
    ['a version as text', { ...whole, schemaVersion: '2' }, /schemaVersion/],
    ['another case', { schemaVersion: 2, Config: config, Layers: [] }, /neither/],
    ['its own media type an index', { ...whole, mediaType: `${OCI}index.v1+json` }, /media type/],
    ['its own media type unknown', { ...whole, mediaType: 'text/plain' }, /media type/],
    ['its referrer an index', whole, /media type/, `${OCI}index.v1+json`],
    [
      'docker inside, oci outside',
      { ...whole, mediaType: 'application/vnd.docker.distribution.manifest.v2+json' },
      /refers/,
      `${OCI}manifest.v1+json`,
    ],
    ['2,001 layers', { ...whole, layers: Array(2001).fill(layer) }, /2001 layers/],
    ['layers that are an object', { ...whole, layers: {} }, /not a list/],
    ['no config', { schemaVersion: 2, layers: [] }, /config/],
    [
      'a digest with a path (CVE-2024-3727)',
      { ...whole, config: { ...config, digest: `sha256:../../${'a'.repeat(58)}` } },
      /digest/,
    ],
    [
      'an upper-case digest',
      { ...whole, config: { ...config, digest: D.toUpperCase().replace('SHA', 'sha') } },
      /digest/,
    ],
    ['sha512', { ...whole, config: { ...config, digest: `sha512:${'a'.repeat(128)}` } }, /digest/],
    ['a negative size', { ...whole, layers: [{ ...layer, size: -1 }] }, /size/],
    ['a size as text', { ...whole, layers: [{ ...layer, size: '1' }] }, /size/],
    ['half a byte', { ...whole, layers: [{ ...layer, size: 1.5 }] }, /size/],
    ['a size beyond 2^53', { ...whole, layers: [{ ...layer, size: 2 ** 53 }] }, /size/],
    ['no size', { ...whole, layers: [{ mediaType: 'a', digest: D }] }, /size/],
    ['no media type', { ...whole, layers: [{ digest: D, size: 1 }] }, /media type/],
    ['a layer that is a list', { ...whole, layers: [[]] }, /layer 1.*not an object/],
    ['annotations that are no strings', { ...whole, annotations: { a: 1 } }, /string/],
  ];
  for (const [what, document, text, mediaType] of table) {
    assert.throws(() => parseManifest(bytes(document), 'it', mediaType), code('corrupt', text), what);
  }
  assert.throws(() => parseManifest(bytes({ schemaVersion: 1, fsLayers: [] }), 'it'), code('unsupported', /schema 1/));
});

test('encodeManifest() writes what parseManifest() reads', () => {
  const made = encodeManifest(Buffer.from('{}'), [{ mediaType: OCI_LAYER_TAR, digest: D, sizeBytes: 5 }]);
  const read = parseManifest(made.bytes, 'it', made.mediaType);
  assert.ok(read.kind === 'manifest');
  assert.equal(read.config.digest, digestOf('{}'));
  assert.deepEqual([read.layers[0]?.digest, read.layers[0]?.sizeBytes], [D, 5]);
});

test('requireKind() takes known media types by exact spelling only', () => {
  assert.equal(mediaKind('application/vnd.docker.image.rootfs.diff.tar.gzip'), 'layer');
  assert.equal(mediaKind('constructor'), undefined);
  for (const type of [
    `${OCI}layer.v1.tar+xz`,
    `${OCI}layer.v1.TAR`,
    `${OCI}layer.v1.tar; a=b`,
    `${OCI}config.v1+json`,
    '',
  ]) {
    assert.throws(() => requireKind(type, 'layer', 'blob 1'), code('unsupported', /blob 1/), type);
  }
});

test('parseConfig() reads diff ids, history and platform', () => {
  const read = parseConfig(
    bytes({
      os: 'linux',
      architecture: 'arm',
      created: '2024-01-01T00:00:00Z',
      rootfs: { type: 'layers', diff_ids: [D] },
      history: [{ created_by: 'a' }, { empty_layer: true, comment: 'c' }],
    }),
    'it',
  );
  assert.deepEqual(read.platform, { os: 'linux', architecture: 'arm', variant: 'v7' });
  assert.deepEqual(read.diffIds, [D]);
  assert.deepEqual(read.history, [
    { createdBy: 'a', emptyLayer: false },
    { comment: 'c', emptyLayer: true },
  ]);
  assert.equal(parseConfig(bytes({ rootfs: { type: 'layers' } }), 'it').platform, undefined);
});

test('parseConfig() refuses what is not an image config', () => {
  const table: readonly (readonly [string, unknown, string])[] = [
    ['no rootfs', { os: 'linux' }, 'corrupt'],
    ['another rootfs', { rootfs: { type: 'layers+base', diff_ids: [] } }, 'unsupported'],
    ['a diff id that is none', { rootfs: { type: 'layers', diff_ids: ['sha256:12'] } }, 'corrupt'],
    ['diff ids as text', { rootfs: { type: 'layers', diff_ids: D } }, 'corrupt'],
    ['2,001 diff ids', { rootfs: { type: 'layers', diff_ids: Array(2001).fill(D) } }, 'corrupt'],
    ['history as text', { rootfs: {}, history: 'a' }, 'corrupt'],
    ['history of numbers', { rootfs: {}, history: [1] }, 'corrupt'],
    ['empty_layer as text', { rootfs: {}, history: [{ empty_layer: 'true' }] }, 'corrupt'],
    ['os as a number', { rootfs: {}, os: 1, architecture: 'a' }, 'corrupt'],
  ];
  for (const [what, document, wanted] of table)
    assert.throws(() => parseConfig(bytes(document), 'it'), code(wanted), what);
});
