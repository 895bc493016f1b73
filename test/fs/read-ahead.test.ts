import assert from 'node:assert/strict';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type AskedFile, doAll, NO_PIECES, ReadAhead } from '../../src/fs/read-ahead.ts';
import { evict } from '../kit/evict.ts';
import { filesystem, needsOf } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';

/** A file of no descriptor that tells when it is closed. */
function asked(closed: number[], number: number): AskedFile {
  return { fd: -1, sizeBytes: number % 3, [Symbol.dispose]: () => void closed.push(number) };
}

test('ReadAhead gives bytes and files in their order, with few files open and few bytes waiting', () => {
  const parts = fc.array(fc.oneof(fc.constant('file' as const), fc.integer({ min: 0, max: 100_000 })), {
    maxLength: 200,
  });
  fc.assert(
    fc.property(parts, (given) => {
      const seen: (string | number)[] = [];
      const closed: number[] = [];
      const borrowed = Buffer.alloc(100_000);
      let waiting = 0;
      {
        using ahead = new ReadAhead((bytes) => {
          assert.ok(bytes.every((byte) => byte === (bytes[0] ?? 0)));
          seen.push(`${bytes.length} of ${bytes[0] ?? 0}`);
          waiting -= bytes.length;
        });
        for (const [i, part] of given.entries()) {
          if (part === 'file') {
            ahead.file(asked(closed, i), () => {
              if (i % 5 !== 0) {
                seen.push(i);
                return NO_PIECES;
              }
              // A large one, piece by piece.
              return (function* () {
                yield;
                assert.ok(!closed.includes(i));
                seen.push(i);
                yield;
              })();
            });
          } else {
            waiting += part;
            ahead.bytes(borrowed.subarray(0, part).fill(i % 251));
          }
          doAll(ahead.advance());
          const files = given.slice(0, i + 1).filter((one) => one === 'file').length;
          assert.ok(files - closed.length <= 16 && waiting <= 256 * 1024);
        }
        doAll(ahead.drain());
      }
      const expected = given.map((part, i) => (part === 'file' ? i : `${part} of ${part === 0 ? 0 : i % 251}`));
      assert.deepEqual(seen, expected);
      assert.deepEqual(
        closed,
        expected.filter((one) => typeof one === 'number'),
      );
    }),
    { numRuns: 300, examples: [[['file', 86_578, 76_199, 99_368, 0]]] },
  );
});

test('ReadAhead closes every file once, also where reading one fails or nobody reads', () => {
  const closed: number[] = [];
  const failure = new Error('changed');
  {
    using ahead = new ReadAhead(() => {});
    for (let i = 0; i < 10; i++) {
      ahead.file(asked(closed, i), () => {
        if (i === 2) throw failure;
        return i === 1 ? [undefined, undefined] : NO_PIECES;
      });
    }
    assert.throws(() => doAll(ahead.drain()), failure);
    assert.deepEqual(closed, [0, 1, 2]);
  }
  assert.deepEqual(closed, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
});

test('ReadAhead leaves a large file in the middle, and closes it', () => {
  const closed: number[] = [];
  const seen: string[] = [];
  {
    using ahead = new ReadAhead(() => {});
    for (let i = 0; i < 20; i++) {
      ahead.file(asked(closed, i), function* () {
        yield;
        seen.push(`rest of ${i}`);
      });
    }
    const pieces = ahead.advance()[Symbol.iterator]();
    assert.deepEqual([pieces.next().done, closed.length, pieces.next().done, closed], [false, 0, false, [0]]);
    pieces.return?.();
    assert.deepEqual(closed, [0, 1]);
  }
  assert.deepEqual(seen, ['rest of 0']);
  assert.equal(closed.length, 20);
});

test('ReadAhead reads at once while all that waits is in memory, and waits for disks only', async (t) => {
  if (!need(t, ...needsOf('ext4'))) return;
  await using disk = await filesystem('ext4', 64);
  const seen: string[] = [];
  {
    using ahead = new ReadAhead(() => {});
    const take = (name: string, isCold: boolean): void => {
      const path = `${disk.path}/${name}`;
      writeFileSync(path, 'x'.repeat(9000));
      if (isCold) evict(path);
      const fd = openSync(path, 'r');
      const read = (): typeof NO_PIECES => {
        seen.push(name);
        return NO_PIECES;
      };
      ahead.file({ fd, sizeBytes: 9000, [Symbol.dispose]: () => closeSync(fd) }, read);
      doAll(ahead.advance());
    };
    for (const name of ['hot1', 'hot2']) take(name, false);
    assert.deepEqual([seen, ahead.isEmpty], [['hot1', 'hot2'], true]);
    take('cold1', true);
    take('hot3', false);
    for (let i = 2; i < 10; i++) take(`cold${i}`, true);
    assert.deepEqual([seen.length, ahead.isEmpty], [2, false]);
    for (let i = 4; i < 30; i++) take(`hot${i}`, false);
    // As it was the first to wait for, and 16 may wait. What is behind the last cold one goes with it.
    assert.deepEqual(seen.slice(2, 4), ['cold1', 'hot3']);
    doAll(ahead.drain());
    assert.ok(ahead.isEmpty);
    take('last', false);
    assert.deepEqual([seen.at(-1), ahead.isEmpty], ['last', true]);
  }
  const colds = Array.from({ length: 8 }, (_, i) => `cold${i + 2}`);
  const hots = Array.from({ length: 26 }, (_, i) => `hot${i + 4}`);
  assert.deepEqual(seen, ['hot1', 'hot2', 'cold1', 'hot3', ...colds, ...hots, 'last']);
});
