import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/base/errors.ts';
import { type Extent, SplitReader, SplitWriter } from '../../src/tar/index.ts';
import { archive, written } from './arbitraries.ts';
import { chunked, replay, split } from './collect.ts';

const DIGEST = Buffer.alloc(32, 0xab);

test('SplitReader and SplitWriter: replay after record is the identity', () => {
  fc.assert(
    fc.property(
      fc.array(written, { maxLength: 6 }),
      fc.uint8Array({ maxLength: 3000 }),
      fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 5 }),
      (entries, behind, sizes) => {
        const tar = Buffer.concat([archive(entries), behind]);
        const { record, files } = split(tar);
        assert.ok(replay(record, files, sizes).equals(tar));
      },
    ),
    { numRuns: 200 },
  );
});

function told(record: Uint8Array, sizes: readonly number[] = [record.length]): unknown[] {
  const calls: unknown[] = [];
  const reader = new SplitReader({
    onRaw: (bytes) => calls.push(['raw', bytes.length]),
    onFile: (name, payloadBytes, extents) => calls.push(['file', name, payloadBytes, extents]),
    onEnd: (total, sha256) => calls.push(['end', total, Buffer.from(sha256)]),
  });
  for (const chunk of chunked(record, sizes)) reader.write(chunk);
  reader.finish();
  return calls;
}

function recorded(tell: (writer: SplitWriter) => void): Buffer {
  const parts: Uint8Array[] = [];
  tell(new SplitWriter((bytes) => parts.push(Buffer.from(bytes))));
  return Buffer.concat(parts);
}

test('SplitWriter merges neighbouring raw bytes up to 64 KiB and drops empty files', () => {
  const record = recorded((writer) => {
    for (let i = 0; i < 1000; i++) writer.raw(Buffer.alloc(100));
    writer.file(fromText('empty'), 0);
    writer.raw(Buffer.alloc(70_000));
    writer.file(fromText('name'), 2 ** 40);
    writer.raw(Buffer.alloc(1));
    writer.end(170_001 + 2 ** 40, DIGEST);
  });
  assert.deepEqual(
    told(record, [65536]).filter((call) => (call as unknown[])[0] !== 'raw'),
    [
      ['file', 'name', 2 ** 40, undefined],
      ['end', 170_001 + 2 ** 40, DIGEST],
    ],
  );
  assert.deepEqual(told(record).slice(0, 4), [
    ['raw', 65536],
    ['raw', 65536],
    ['raw', 38928],
    ['file', 'name', 2 ** 40, undefined],
  ]);
});

test('SplitReader tells names and runs as they were, in chunks of any size', () => {
  const extents: Extent[] = [
    { offset: 0, length: 1 },
    { offset: 1, length: 300 },
    { offset: 2 ** 45, length: 2 ** 33 },
  ];
  const record = recorded((writer) => {
    writer.file('\xff\n' as ByteString, 301 + 2 ** 33, extents);
    writer.end(301 + 2 ** 33, DIGEST);
  });
  for (const size of [1, 3, record.length]) {
    assert.deepEqual(told(record, [size]), [
      ['file', '\xff\n', 301 + 2 ** 33, extents],
      ['end', 301 + 2 ** 33, DIGEST],
    ]);
  }
});

test('SplitReader refuses every record that is off, as corrupt', () => {
  const head = 'LSSPLIT\x01';
  const end = (total: string): string => `\0${total}${'d'.repeat(32)}`;
  assert.doesNotThrow(() => told(Buffer.from(`${head}\x01\x01a\x02\x01n\x02${end('\x03')}`, 'latin1')));
  const table: Readonly<Record<string, string>> = {
    'no bytes': '',
    'another magic': `LSSPLIX\x01${end('\0')}`,
    'another version': `LSSPLIT\x02${end('\0')}`,
    'no end': head,
    'a cut end': `${head}\0\0${'d'.repeat(31)}`,
    'bytes behind the end': `${head}${end('\0')}x`,
    'an unknown part': `${head}\x04${end('\0')}`,
    'an empty raw part': `${head}\x01\0${end('\0')}`,
    'a raw part over 64 KiB': `${head}\x01\x81\x80\x04${'r'.repeat(65537)}${end('\x81\x80\x04')}`,
    'a cut raw part': `${head}\x01\x05abc`,
    'a total that is wrong': `${head}\x01\x01a${end('\x02')}`,
    'a number in a longer form': `${head}\x01\x81\0a${end('\x01')}`,
    'a number of 9 bytes': `${head}\x02\x01n\x80\x80\x80\x80\x80\x80\x80\x80\x01`,
    'a number over 2^53': `${head}\x02\x01n\xff\xff\xff\xff\xff\xff\xff\x7f`,
    'sizes that add up beyond 2^53': `${head}${'\x02\x01n\xff\xff\xff\xff\xff\xff\xff\x0f'.repeat(2)}`,
    'a name over 1 MiB': `${head}\x02\x81\x80\x40`,
    'a name with a NUL': `${head}\x02\x01\0\x01${end('\x01')}`,
    'an empty payload': `${head}\x02\x01n\0${end('\0')}`,
    'no runs': `${head}\x03\x01n\x01\0${end('\x01')}`,
    'too many runs': `${head}\x03\x01n\x01\x81\x89\x7a`,
    'an empty run': `${head}\x03\x01n\x01\x02\0\0\0\x01${end('\x01')}`,
    'runs beyond the payload': `${head}\x03\x01n\x01\x01\0\x02${end('\x01')}`,
    'runs short of the payload': `${head}\x03\x01n\x03\x01\0\x02${end('\x03')}`,
    'a run beyond 2^53': `${head}\x03\x01n\x01\x02\xff\xff\xff\xff\xff\xff\xff\x0f\x01`,
  };
  for (const [what, text] of Object.entries(table)) {
    for (const size of [1, 100_000]) {
      assert.throws(
        () => told(Buffer.from(text, 'latin1'), [size]),
        (error) => isStorageError(error, 'corrupt'),
        what,
      );
    }
  }
});

test('SplitReader answers any bytes with corrupt or with a record, never otherwise', () => {
  const { record } = split(archive(fc.sample(written, { numRuns: 8, seed: 3 })));
  fc.assert(
    fc.property(fc.nat(record.length - 1), fc.nat(255), fc.nat(record.length), (at, byte, cut) => {
      const changed = Buffer.from(record);
      changed[at] = byte;
      try {
        told(changed.subarray(0, cut));
      } catch (error) {
        assert.ok(isStorageError(error, 'corrupt'), String(error));
      }
    }),
    { numRuns: 500 },
  );
});
