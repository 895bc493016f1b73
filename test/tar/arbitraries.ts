import fc from 'fast-check';
import type { ByteString } from '../../src/base/bytes.ts';
import type { Extent, TarEntry } from '../../src/tar/index.ts';
import { encodeEntry, paddingFor, trailer } from '../../src/tar/index.ts';

/** What generated tests write: an entry, and as many bytes as its payload has. */
export interface Written {
  readonly entry: TarEntry;
  readonly payload: Buffer;
}

const byte = fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code));
const letter = fc.constantFrom('a', 'b', '/', '.', '\n', '=', '%', 'é');

/** A name of odd bytes, of any length around the limits of the header's fields. */
export const name: fc.Arbitrary<ByteString> = fc
  .oneof(
    fc.string({ unit: byte, minLength: 1, maxLength: 30 }),
    fc.string({ unit: letter, minLength: 1, maxLength: 300, size: 'max' }),
    fc.integer({ min: 98, max: 260 }).map((length) => 'x/'.repeat(length).slice(0, length)),
  )
  .map((text) => text as ByteString);

const xattrs = fc
  .array(fc.tuple(fc.string({ unit: byte, minLength: 1, maxLength: 20 }), fc.uint8Array({ maxLength: 40 })), {
    maxLength: 3,
  })
  .map((pairs) => new Map(pairs.map(([key, value]) => [`user.${key}` as ByteString, Buffer.from(value)])));

const id = fc.oneof(
  fc.integer({ min: 0, max: 70000 }),
  fc.constantFrom(0o7777777, 0o10000000, 0xffff_fffe),
  fc.integer({ min: 0, max: 0xffff_fffe }),
);
const mtimeNs = fc.oneof(
  fc.bigInt({ min: -(2n ** 40n), max: 2n ** 40n }).map((seconds) => seconds * 1_000_000_000n),
  fc.bigInt({ min: -(2n ** 63n) * 1_000_000_000n, max: 2n ** 63n * 1_000_000_000n - 1n }),
  fc.constantFrom(0n, -1n, 1n, 8n ** 11n * 1_000_000_000n, (8n ** 11n - 1n) * 1_000_000_000n),
);
const runs: fc.Arbitrary<{ sparse: Extent[]; sizeBytes: number }> = fc
  .tuple(
    fc.array(fc.tuple(fc.nat(2 ** 40), fc.integer({ min: 1, max: 4 })), { maxLength: 40 }),
    fc.oneof(fc.constant(0), fc.nat(2 ** 40)),
    fc.nat(511),
  )
  .map(([gaps, hole, cut]) => {
    let end = 0;
    const sparse = gaps.map(([gap, blocks], i) => {
      const length = blocks * 512 - (i === gaps.length - 1 ? cut : 0);
      const offset = end + gap;
      end = offset + length;
      return { offset, length };
    });
    return { sparse, sizeBytes: end + hole };
  });

function entryOf(type: fc.Arbitrary<TarEntry['type']>): fc.Arbitrary<TarEntry> {
  return fc.record(
    {
      type,
      name,
      linkName: fc.constant('' as ByteString),
      mode: fc.integer({ min: 0, max: 0o7777 }),
      uid: id,
      gid: id,
      sizeBytes: fc.constant(0),
      mtimeNs,
      devMajor: fc.constant(0),
      devMinor: fc.constant(0),
      xattrs,
    },
    { noNullPrototype: true },
  );
}

const zeros = (length: number): Buffer => Buffer.alloc(length, 'payload');

/** Any entry that can be written, with a payload. */
export const written: fc.Arbitrary<Written> = fc.oneof(
  fc.tuple(entryOf(fc.constant('file')), fc.nat(3000)).map(([entry, size]) => ({
    entry: { ...entry, sizeBytes: size },
    payload: zeros(size),
  })),
  fc.tuple(entryOf(fc.constant('file')), runs).map(([entry, { sparse, sizeBytes }]) => ({
    entry: { ...entry, sizeBytes, sparse },
    payload: zeros(sparse.reduce((sum, run) => sum + run.length, 0)),
  })),
  entryOf(fc.constantFrom('directory', 'fifo')).map((entry) => ({ entry, payload: zeros(0) })),
  fc.tuple(entryOf(fc.constantFrom('symlink', 'hardlink')), name).map(([entry, linkName]) => ({
    entry: { ...entry, linkName },
    payload: zeros(0),
  })),
  fc
    .tuple(entryOf(fc.constantFrom('character-device', 'block-device')), fc.nat(0xfff), fc.nat(0xfffff))
    .map(([entry, devMajor, devMinor]) => ({ entry: { ...entry, devMajor, devMinor }, payload: zeros(0) })),
);

/** The archive of these entries. */
export function archive(entries: readonly Written[]): Buffer {
  const parts = entries.flatMap(({ entry, payload }) => [encodeEntry(entry), payload, paddingFor(payload.length)]);
  return Buffer.concat([...parts, trailer()]);
}

/** The entry as it must come back. */
export function asRead(entry: TarEntry): TarEntry {
  return entry.type === 'directory' && !entry.name.endsWith('/')
    ? { ...entry, name: `${entry.name}/` as ByteString }
    : entry;
}
