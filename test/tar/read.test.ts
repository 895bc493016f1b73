import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { isStorageError } from '../../src/base/errors.ts';
import { readTar } from '../../src/tar/index.ts';
import { archive, asRead, written } from './arbitraries.ts';
import { chunked } from './collect.ts';

async function* stream(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  yield* chunked(bytes, sizes);
}

test('readTar() yields every member with its payload, and skips what is not read', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(written, fc.constantFrom('all', 'none', 'some')), { maxLength: 6 }),
      fc.array(fc.integer({ min: 1, max: 2000 }), { minLength: 1, maxLength: 3 }),
      async (plan, sizes) => {
        let i = 0;
        for await (const { entry, payload } of readTar(stream(archive(plan.map(([member]) => member)), sizes))) {
          const [member, how] = plan[i++]!;
          assert.deepEqual(entry, asRead(member.entry));
          if (how === 'none') continue;
          const chunks: Buffer[] = [];
          for await (const chunk of payload) {
            chunks.push(Buffer.from(chunk));
            if (how === 'some') break;
          }
          if (how === 'all') assert.ok(Buffer.concat(chunks).equals(member.payload));
        }
        assert.equal(i, plan.length);
      },
    ),
    { numRuns: 100 },
  );
});

test('readTar() ends its source when the loop is left, and refuses a payload that is asked for too late', async () => {
  const members = fc.sample(written, { numRuns: 20, seed: 1 });
  let closed = false;
  async function* source(): AsyncGenerator<Uint8Array> {
    try {
      yield* chunked(archive(members), [100]);
    } finally {
      closed = true;
    }
  }
  let late: AsyncIterable<Uint8Array> | undefined;
  for await (const { payload } of readTar(source())) {
    if (late !== undefined) break;
    late = payload;
  }
  assert.ok(closed);
  await assert.rejects(Array.fromAsync(late!), (error) => isStorageError(error, 'failed-precondition'));
});

test('readTar() rejects a damaged archive as corrupt, and an abort with its reason', async () => {
  const tar = archive(fc.sample(written, { numRuns: 20, seed: 1 }));
  await assert.rejects(Array.fromAsync(readTar(stream(tar.subarray(0, 700), [100]))), (error) =>
    isStorageError(error, 'corrupt'),
  );
  const reason = new Error('enough');
  await assert.rejects(
    Array.fromAsync(readTar(stream(tar, [100]), { signal: AbortSignal.abort(reason) })),
    (error) => error === reason,
  );
});
