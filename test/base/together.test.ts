import assert from 'node:assert/strict';
import { test } from 'node:test';
import { together } from '../../src/base/together.ts';

/** Rejects with the signal's reason, some time after it aborts. */
function untilAborted(signal: AbortSignal, ended: string[], name: string): Promise<never> {
  return new Promise((_, reject) => {
    signal.addEventListener('abort', () => {
      setTimeout(() => {
        ended.push(name);
        reject(signal.reason);
      }, 5);
    });
  });
}

test('together() answers all results in their order', async () => {
  const later = (value: number, ms: number): Promise<number> =>
    new Promise((resolve) => setTimeout(() => resolve(value), ms));
  assert.deepEqual(await together({}, () => [later(1, 10), later(2, 0), later(3, 5)]), [1, 2, 3]);
});

test('together() aborts the others when one fails, and throws its error when all have ended', async () => {
  const ended: string[] = [];
  const failure = new Error('full');
  await assert.rejects(
    together({}, (signal) => [
      untilAborted(signal, ended, 'a'),
      Promise.reject(failure),
      untilAborted(signal, ended, 'b'),
    ]),
    failure,
  );
  assert.deepEqual(ended, ['a', 'b']);
});

test("together() aborts all when the caller does, and throws the caller's reason", async () => {
  const ended: string[] = [];
  const stop = new AbortController();
  const reason = new Error('enough');
  setTimeout(() => stop.abort(reason), 5);
  await assert.rejects(
    together({ signal: stop.signal }, (signal) => [untilAborted(signal, ended, 'a'), Promise.resolve()]),
    reason,
  );
  assert.deepEqual(ended, ['a']);
});
