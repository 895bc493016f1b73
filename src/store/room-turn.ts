import { rmSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';
import { type ByteString, quote, toBytes } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { isHeldBySqlite, isNoDatabase } from './connection.ts';
import { type Layout, roomLocks } from './layout.ts';
import { LOCKED } from './patience.ts';

// Where room is short, whoever opens, writes or takes the reserve does so alone: else one would take what another has
// just found free. And while somebody removes something with what the reserve gave, nobody takes it. The locks are
// SQLite's, as the database's thread loads no FFI library; an empty database has no content that anybody would write,
// and the kernel lets go of its lock with the process.

/** A journal that is a file would take room. */
const IN_MEMORY = 'PRAGMA journal_mode = MEMORY;';
const ALONE = `${IN_MEMORY} BEGIN EXCLUSIVE`;
const TOGETHER = `${IN_MEMORY} BEGIN; SELECT count(*) FROM sqlite_master`;

/**
 * Runs `body` while nobody else, in any process, has a turn. Who has to wait longer than `lockMs` is `busy`, as for the
 * database; where there can be no lock, it runs without.
 */
export function inTurn<T>(layout: Layout, lockMs: number, body: () => T): T {
  const lock = take(roomLocks(layout).turn, ALONE, lockMs);
  if (lock === 'held') {
    throw new StorageError(
      'busy',
      `Cannot use the store ${quote(layout.root)}: others are at the last of its disk; try again`,
      { path: layout.root, errno: LOCKED },
    );
  }
  try {
    return body();
  } finally {
    lock?.close();
  }
}

/** In a turn: from now on what the reserve gave is in use, until the answer is closed. Any number may say so. */
export function useGiven(layout: Layout): { close(): void } | undefined {
  const lock = take(roomLocks(layout).given, TOGETHER, 0);
  return lock === 'held' ? undefined : lock;
}

/** In a turn: whether nobody uses what the reserve gave. */
export function isUnused(layout: Layout): boolean {
  const lock = take(roomLocks(layout).given, ALONE, 0);
  if (lock === 'held') return false;
  lock?.close();
  return true;
}

/** undefined where there can be no lock. */
function take(path: ByteString, how: string, lockMs: number): DatabaseSync | 'held' | undefined {
  let lock: DatabaseSync | undefined;
  try {
    lock = new DatabaseSync(toBytes(path), { timeout: lockMs });
    lock.exec(how);
    return lock;
  } catch (error) {
    lock?.close();
    if (isHeldBySqlite(error)) return 'held';
    if (isNoDatabase(error)) rmSync(toBytes(path), { force: true }); // the next one makes it anew
    return undefined; // its directory is not there yet, or may not be written
  }
}
