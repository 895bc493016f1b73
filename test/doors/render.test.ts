import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromBytes, fromText } from '../../src/base/bytes.ts';
import { StorageError } from '../../src/base/errors.ts';
import { lineOfChange } from '../../src/doors/cli/change-lines.ts';
import { rfc3339, sourceDateEpoch } from '../../src/doors/cli/epoch.ts';
import { errorLine, explained, harmless } from '../../src/doors/cli/errors.ts';
import { exitCodeOf } from '../../src/doors/cli/exit-codes.ts';
import { humanSize, shownId, shownReference, shownTime } from '../../src/doors/cli/format.ts';
import { jsonLine, pathFields } from '../../src/doors/cli/json.ts';
import { barLine } from '../../src/doors/cli/progress.ts';
import { table } from '../../src/doors/cli/table.ts';

test('humanSize() has three figures and units of 1000', () => {
  const rows: readonly (readonly [number, string])[] = [
    [0, '0B'],
    [999, '999B'],
    [1000, '1kB'],
    [1234, '1.23kB'],
    [99_940, '99.9kB'],
    [99_960, '100kB'],
    [999_499, '999kB'],
    [999_500, '1MB'],
    [121_381_888, '121MB'],
    [1_073_753_088, '1.07GB'],
  ];
  for (const [bytes, text] of rows) assert.equal(humanSize(bytes), text);
});

test('table() aligns columns and leaves no blank at an end of line', () => {
  assert.deepEqual(
    table(
      ['A', 'BB'],
      [
        ['long', ''],
        ['ö', 'x'],
      ],
    ),
    ['A     BB', 'long', 'ö     x'],
  );
  assert.deepEqual(table(['A', 'B'], []), ['A  B']);
});

test('shownReference() is short for Docker Hub and leaves what is no full reference', () => {
  assert.equal(shownReference('docker.io/library/x:1'), 'x:1');
  assert.equal(shownReference('docker.io/a/x:1'), 'a/x:1');
  assert.equal(shownReference('localhost:5000/x:1'), 'localhost:5000/x:1');
  assert.equal(shownReference('job-17'), 'job-17');
});

test('shownId() and shownTime() are short', () => {
  assert.equal(shownId(`sha256:${'ab'.repeat(32)}`, false), 'abababababab');
  assert.equal(shownTime('2024-01-02T03:04:05.678+01:00'), '2024-01-02 02:04:05');
  assert.equal(shownTime('\x1b[2J'), '-');
  assert.equal(shownTime(undefined), '-');
});

test('harmless() quotes only what a terminal must not see', () => {
  assert.equal(harmless(fromText('/a b/ö')), '/a b/ö');
  assert.equal(harmless(fromText('/a\x1b[2J')), '"/a\\x1b[2J"');
  assert.equal(harmless(fromText('/a\u202etxt')), '"/a\\u{202e}txt"');
  assert.equal(harmless(fromBytes(Buffer.from([0x2f, 0xff]))), '"/\\xff"');
});

test('lineOfChange() keeps bytes for a pipe, not for a terminal', () => {
  const path = fromBytes(Buffer.from([0x2f, 0xff, 0x1b]));
  const line = (json: boolean, isTerminal: boolean): ByteString =>
    lineOfChange({ json, out: { isTerminal } as never }, { kind: 'modify', path });
  assert.equal(line(false, false), 'C /\xff\x1b');
  assert.equal(line(false, true), 'C "/\\xff\\x1b"');
  assert.equal(line(true, true), '{"kind":"modify","pathBase64":"L/8b"}');
});

test('jsonLine() is the same value, and no character in it moves a cursor', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const json = jsonLine({ text });
      assert.deepEqual(JSON.parse(json), { text });
      assert.doesNotMatch(json, /[\x00-\x1f\x7f-\x9f\u202a-\u202e]/);
    }),
  );
  assert.deepEqual(pathFields(fromText('/ö')), { path: '/ö' });
});

test('barLine() never fills the terminal', () => {
  const progress = { step: 'unpack', layer: `sha256:${'ab'.repeat(32)}`, bytesDone: 50, bytesTotal: 100 } as const;
  assert.equal(barLine(progress, 80), `abababababab unpack [${'='.repeat(15)}>${' '.repeat(14)}] 50B/100B`);
  for (let columns = 1; columns < 120; columns++) {
    for (const bytesDone of [0, 1, 99, 100, 1e9]) {
      assert.ok(barLine({ ...progress, bytesDone }, columns).length < columns, `${columns}`);
    }
  }
});

test('exitCodeOf() has a code for each error, and 70 for what nobody thought of', () => {
  const rows = {
    'invalid-argument': 2,
    'not-found': 3,
    busy: 4,
    'already-exists': 4,
    unsupported: 5,
    corrupt: 6,
  } as const;
  for (const [code, exit] of Object.entries(rows)) assert.equal(exitCodeOf(new StorageError(code as 'busy', '')), exit);
  assert.equal(exitCodeOf(new TypeError('x')), 70);
});

test('errorLine() is one line, with the remedy once', () => {
  assert.equal(errorLine(new StorageError('busy', 'Cannot x: "a"', { remedy: 'do y' })), 'Cannot x: "a"; do y');
  assert.equal(errorLine(new StorageError('busy', 'Cannot x: do y', { remedy: 'do y' })), 'Cannot x: do y');
  assert.match(errorLine(new TypeError('a\nb\x1b')), /^Internal error: TypeError: a\\nb\\x1b; this is a bug/);
});

test('explained() gives a failed call the code that fits', () => {
  const failed = Object.assign(new Error('x'), { code: 'ENOSPC', syscall: 'write' });
  const error = explained(failed, 'write', fromText('/x')) as StorageError;
  assert.deepEqual(
    [error.code, error.message],
    ['resource-exhausted', 'Cannot write "/x": no space left on the filesystem (ENOSPC)'],
  );
  const other = new TypeError('x');
  assert.equal(explained(other, 'write', fromText('/x')), other);
});

test('sourceDateEpoch() takes seconds and nothing else', () => {
  assert.equal(sourceDateEpoch({}), undefined);
  assert.equal(sourceDateEpoch({ SOURCE_DATE_EPOCH: '' }), undefined);
  assert.equal(rfc3339(sourceDateEpoch({ SOURCE_DATE_EPOCH: '1700000000' }) ?? 0), '2023-11-14T22:13:20Z');
  for (const text of ['x', '-1', '1.5', '1e3', '999999999999']) {
    assert.throws(() => sourceDateEpoch({ SOURCE_DATE_EPOCH: text }), /SOURCE_DATE_EPOCH/);
  }
});
