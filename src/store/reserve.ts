import { closeSync, openSync, readdirSync, rmSync, statfsSync, statSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { type ByteString, toBytes } from '../base/bytes.ts';
import { randomBytes } from '../base/crypto.ts';
import { isStorageError, nodeErrno } from '../base/errors.ts';
import { type Layout, newDatabasePath } from './layout.ts';

// A file that only takes space. SQLite can neither open nor write a database on a full disk, so without it nothing could
// be removed from a store that has filled its disk: it is given up then, and taken again when there is room. What it
// gives is for removing: nothing may grow while it is not there (`room.ts`).

/** Removing 100 layers takes 300 KiB of the database's log. */
const RESERVE_BYTES = 512 << 10;
/** Where less is free, room is short: a removal, or opening, may fail for it. */
const SHORT_BYTES = 1 << 20;
/** What opening takes: SQLite's `-shm` of 32 KiB, and its name and the log's. */
const OPENING_BYTES = 40 << 10;
const FILE = 'reserve';

/** Gives the space free, of this boot or another, if there is any. */
export function freeReserve(layout: Layout): void {
  const runs = dirname(layout.run) as ByteString;
  for (const boot of bootsIn(runs)) {
    try {
      rmSync(toBytes(`${runs}/${boot}/${FILE}` as ByteString));
    } catch {
      // none was there: then there is nothing to give
    }
  }
}

function bootsIn(runs: ByteString): readonly string[] {
  try {
    return readdirSync(toBytes(runs));
  } catch {
    return []; // a store whose making ended before that
  }
}

/**
 * Takes the space that is not taken yet, as much of it as there is; `spare`: only where that does not make room short.
 * Answers whether the disk had it.
 */
export function takeReserve(layout: Layout, { spare }: { readonly spare: boolean }): boolean {
  const path = toBytes(`${layout.run}/${FILE}` as ByteString);
  try {
    const missing = RESERVE_BYTES - (statSync(path, { throwIfNoEntry: false })?.size ?? 0);
    if (missing <= 0) return true;
    if (spare && freeBytes(layout) < SHORT_BYTES + missing) return false;
    fill(path, missing);
    return true;
  } catch (error) {
    return !LACKING.has(nodeErrno(error)); // any other failure keeps nothing from growing: that meets it, too, and tells
  }
}

export function isShort(layout: Layout): boolean {
  try {
    return freeBytes(layout) < SHORT_BYTES;
  } catch {
    return false; // why, is told where the store is opened
  }
}

function freeBytes({ root }: Layout): number {
  const { bavail, bsize } = statfsSync(toBytes(root));
  return bavail * bsize;
}

/** Whether there is what opening takes: tried, as statfs knows neither of quotas nor of what only root may use. */
export function canOpen(layout: Layout): boolean {
  const path = toBytes(newDatabasePath(layout.root));
  try {
    fill(path, OPENING_BYTES);
    return true;
  } catch (error) {
    return !LACKING.has(nodeErrno(error)); // any other failure SQLite will meet, too, and tell
  } finally {
    rmSync(path, { force: true });
  }
}

/** A larger write may be refused whole where a part of it would fit (ext4 with blocks of 1 KiB, observed on 6.18). */
const PIECE_BYTES = 8 << 10;

/** Noise, as some filesystems compress. What fits stays. */
function fill(path: Buffer, bytes: number): void {
  const fd = openSync(path, 'a', 0o600);
  try {
    const noise = randomBytes(bytes);
    for (let at = 0; at < bytes; ) at += writeSync(fd, noise, at, Math.min(PIECE_BYTES, bytes - at));
  } finally {
    closeSync(fd);
  }
}

const LACKING: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT']);

/** Whether it is the disk that lacks, and not memory or descriptors. */
export function isFull(error: unknown): boolean {
  return isStorageError(error, 'resource-exhausted') && LACKING.has(error.errno ?? '');
}
