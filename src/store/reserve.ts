import { closeSync, openSync, readdirSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { type ByteString, toBytes } from '../base/bytes.ts';
import type { Layout } from './layout.ts';

// A file that only takes space. SQLite cannot open a database on a full disk, so without it nothing could be removed
// from a store that has filled its disk: it is given up then, and taken again when there is room.

const BYTES = 256 << 10;
/** Where less is free, it would itself be what is missing. */
const ROOM_BYTES = 64 << 20;
const FILE = 'reserve';

/** Gives the space free, of this boot or another; false where there was none. */
export function freeReserve(layout: Layout): boolean {
  const runs = dirname(layout.run) as ByteString;
  let freed = false;
  for (const boot of bootsIn(runs)) {
    try {
      rmSync(toBytes(`${runs}/${boot}/${FILE}` as ByteString));
      freed = true;
    } catch {
      // none was there: then there is nothing to give
    }
  }
  return freed;
}

function bootsIn(runs: ByteString): readonly string[] {
  try {
    return readdirSync(toBytes(runs));
  } catch {
    return []; // a store whose making ended before that
  }
}

/** Takes the space, if it is not taken and there is some. */
export function takeReserve(layout: Layout): void {
  let fd: number;
  try {
    const { bavail, bsize } = statfsSync(toBytes(layout.run));
    if (bavail * bsize < ROOM_BYTES) return;
    fd = openSync(toBytes(`${layout.run}/${FILE}` as ByteString), 'wx', 0o600);
  } catch {
    return; // it is there, or the disk is full: later then
  }
  try {
    writeSync(fd, Buffer.alloc(BYTES, 'reserve\n'));
    closeSync(fd);
  } catch {
    closeSync(fd);
    freeReserve(layout); // a part of it would only be in the way
  }
}
