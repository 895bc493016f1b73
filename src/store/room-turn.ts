import { DatabaseSync } from 'node:sqlite';
import { type ByteString, quote, toBytes } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { isHeldBySqlite } from './connection.ts';
import type { Layout } from './layout.ts';
import { LOCKED } from './patience.ts';

// Where room is short, whoever opens, writes or takes the reserve does so alone: else one would take what another has
// just found free. The lock is SQLite's, as the database's thread loads no FFI library; an empty database has no content
// that anybody would write, and the kernel lets go of its lock with the process.

const FILE = 'room';

/**
 * Runs `body` while nobody else, in any process, has a turn. Who has to wait longer than `lockMs` is `busy`, as for the
 * database; where there can be no lock, it runs without.
 */
export function inTurn<T>(layout: Layout, lockMs: number, body: () => T): T {
  const lock = take(`${layout.run}/${FILE}` as ByteString, layout, lockMs);
  try {
    return body();
  } finally {
    lock?.close();
  }
}

function take(path: ByteString, { root }: Layout, lockMs: number): DatabaseSync | undefined {
  let lock: DatabaseSync | undefined;
  try {
    lock = new DatabaseSync(toBytes(path), { timeout: lockMs });
    lock.exec('PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE'); // a journal that is a file would take room
    return lock;
  } catch (error) {
    lock?.close();
    if (!isHeldBySqlite(error)) return undefined; // the directory is not there yet, or may not be written
    const facts = { path: root, errno: LOCKED, cause: error };
    throw new StorageError(
      'busy',
      `Cannot use the store ${quote(root)}: others are at the last of its disk; try again`,
      facts,
    );
  }
}
