import { mkdirSync, rmdirSync } from 'node:fs';
import type { ByteString } from '../../src/base/bytes.ts';
import { Locks } from '../../src/mount/locks.ts';

// Takes a lock again and again and fails when another is inside as well: `lock-child.ts LOCKS INSIDE ROUNDS`.

const [directory = '', inside = '', rounds = ''] = process.argv.slice(2);
const locks = new Locks(directory as ByteString);
for (let n = 0; n < Number(rounds); n++) {
  await locks.alone('layer' as ByteString, async () => {
    mkdirSync(inside); // EEXIST: two are inside
    const until = performance.now() + 0.2;
    while (performance.now() < until);
    rmdirSync(inside);
  });
}
