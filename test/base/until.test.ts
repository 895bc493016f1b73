import assert from 'node:assert/strict';
import { test } from 'node:test';
import { until } from '../../src/base/until.ts';

/** Says what is done to it; stalls for ever after its items. */
function source(
  items: number,
  then: 'end' | 'stall' | 'fail',
): { readonly log: string[]; stream: AsyncIterable<number> } {
  const log: string[] = [];
  async function* stream(): AsyncGenerator<number> {
    try {
      for (let i = 0; i < items; i++) yield i;
      if (then === 'stall') await new Promise(() => {});
      if (then === 'fail') throw new RangeError('failed');
    } finally {
      log.push('left');
    }
  }
  return { log, stream: stream() };
}

async function all(stream: AsyncIterable<number>, into: number[]): Promise<void> {
  for await (const item of stream) into.push(item);
}

test('until() gives the items of its source, its end and its failure', async () => {
  const { signal } = new AbortController();
  const seen: number[] = [];
  await all(until(source(3, 'end').stream, signal), seen);
  assert.deepEqual(seen, [0, 1, 2]);
  await assert.rejects(all(until(source(3, 'fail').stream, signal), seen), RangeError);
  assert.equal(seen.length, 6);
});

test('until() throws the reason of an abort at once: before the first item, between two, and while the source stalls', async () => {
  const reason = { why: 'enough' };
  const isReason = (error: unknown): boolean => error === reason;
  await assert.rejects(all(until(source(1, 'end').stream, AbortSignal.abort(reason)), []), isReason);

  const between = new AbortController();
  const { log, stream } = source(3, 'end');
  const running = (async () => {
    for await (const _ of until(stream, between.signal)) between.abort(reason);
  })();
  await assert.rejects(running, isReason);
  assert.deepEqual(log, ['left'], 'the source was told');

  const stalled = new AbortController();
  setTimeout(() => stalled.abort(reason), 10);
  const seen: number[] = [];
  await assert.rejects(all(until(source(2, 'stall').stream, stalled.signal), seen), isReason);
  assert.deepEqual(seen, [0, 1]);
});

test('until() that is left early leaves its source', async () => {
  const { log, stream } = source(3, 'end');
  for await (const _ of until(stream, new AbortController().signal)) break;
  assert.deepEqual(log, ['left']);
});
