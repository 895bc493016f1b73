import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Items } from '../../src/base/items.ts';

async function* batches(sizes: readonly number[], fails = false, left = () => {}): AsyncGenerator<readonly number[]> {
  let next = 0;
  try {
    for (const size of sizes) yield Array.from({ length: size }, () => next++);
    if (fails) throw new RangeError('enough');
  } finally {
    left();
  }
}

test('Items give each item of each batch, in order, as a generator would: also to who asks before he is answered', async () => {
  const sizes = [2, 0, 1, 0, 0, 3];
  assert.deepEqual(await Array.fromAsync(new Items(batches(sizes))), [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(await Array.fromAsync(new Items(batches([]))), []);
  const items = new Items(batches(sizes))[Symbol.asyncIterator]();
  const asked = await Promise.all(Array.from({ length: 8 }, () => items.next()));
  assert.deepEqual(
    asked.map(({ value }) => value),
    [0, 1, 2, 3, 4, 5, undefined, undefined],
  );
});

test('Items that fail do it once, after what came before; who leaves early ends their source, and gets nothing more', async () => {
  const failing = new Items(batches([1, 1], true))[Symbol.asyncIterator]();
  const asked = await Promise.allSettled([0, 1, 2, 3].map(() => failing.next()));
  assert.deepEqual(
    asked.map((one) => (one.status === 'fulfilled' ? one.value.value : String(one.reason))),
    [0, 1, 'RangeError: enough', undefined],
  );
  let left = 0;
  const items = new Items(batches([3, 3], false, () => left++));
  for await (const item of items) if (item === 1) break;
  assert.equal(left, 1);
  const other = items[Symbol.asyncIterator]();
  await other.next();
  assert.deepEqual(await other.return?.(), { done: true, value: undefined });
  assert.deepEqual(await other.next(), { done: true, value: undefined });
});

test('batchesOf() gives the batches of Items, and anything else one by one', async () => {
  assert.deepEqual(await Array.fromAsync(Items.batchesOf(new Items(batches([2, 1])))), [[0, 1], [2]]);
  async function* singly(): AsyncGenerator<number> {
    yield* [0, 1];
  }
  assert.deepEqual(await Array.fromAsync(Items.batchesOf(singly())), [[0], [1]]);
});
