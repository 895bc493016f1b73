import assert from 'node:assert/strict';
import { readdirSync, readlinkSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** After `task`, which closes what it opens, this process has the threads and the descriptors that it had before. */
export async function leavesNoThread(task: () => Promise<void>, what = ''): Promise<void> {
  const before = [...descriptors(), ...threads()];
  await task();
  let more: string[] = [];
  // A thread that is told to end ends soon, not at once.
  for (let tries = 0; tries < 100; tries++) {
    const had = [...before];
    more = [...descriptors(), ...threads()].filter((one) => {
      const at = had.indexOf(one);
      if (at >= 0) had.splice(at, 1);
      return at < 0;
    });
    if (more.length === 0) return;
    await sleep(20);
  }
  assert.deepEqual(more, [], `${what}: left open`);
}

/** What each descriptor is of, without the number that tells one pipe from another. */
function descriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`).replace(/\[\d+\]/, '');
    } catch {
      return []; // the one that lists them
    }
  });
}

function threads(): string[] {
  return readdirSync('/proc/self/task').map(() => 'a thread');
}
