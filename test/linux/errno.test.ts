import assert from 'node:assert/strict';
import { test } from 'node:test';
import koffi from 'koffi';
import { EAGAIN, ENOENT, lastErrno, steady } from '../../src/linux/libc.ts';

const ENODATA = 61;

test('steady() asks once more where errno is what V8 leaves behind, and answers what the kernel said', () => {
  const left = [EAGAIN, 110, ENODATA];
  let calls = 0;
  const call = steady((...args) => {
    assert.deepEqual(args, [7, 'x']);
    koffi.errno(left[calls++] ?? 0);
    return -1;
  });
  assert.equal(call(7, 'x'), -1);
  assert.deepEqual([calls, lastErrno()], [3, ENODATA]);
});

test('steady() takes a success of the second try, believes other failures at once, and the same answer in the end', () => {
  let calls = 0;
  const succeeds = steady(() => {
    koffi.errno(EAGAIN);
    return ++calls === 1 ? -1 : 5;
  });
  assert.deepEqual([succeeds(), calls], [5, 2]);
  const failing = (errno: number, repeats?: number): number => {
    let tries = 0;
    const call = steady(() => {
      koffi.errno(errno);
      tries++;
      return -1;
    }, repeats);
    assert.equal(call(), -1);
    assert.equal(lastErrno(), errno);
    return tries;
  };
  assert.equal(failing(ENOENT), 1);
  assert.equal(failing(EAGAIN), 4);
  assert.equal(failing(EAGAIN, 0), 1);
});

test('steady() reads errno before anything that V8 may do in between', () => {
  for (const arity of [1, 2, 3, 4, 5, undefined]) {
    let looks = 0;
    // To look at the result a second time is what comes in between here.
    const result = {
      valueOf() {
        if (looks++ > 0) koffi.errno(ENOENT);
        return -1;
      },
    };
    const call = steady(
      () => {
        koffi.errno(ENODATA);
        return result as never;
      },
      3,
      arity,
    );
    call('a', 'b', 'c', 'd', 'e');
    assert.equal(lastErrno(), ENODATA, `${arity}`);
  }
});
