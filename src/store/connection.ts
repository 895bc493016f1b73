import {
  closeSync,
  existsSync,
  fchmodSync,
  fsyncSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
} from 'node:fs';
import { DatabaseSync, type SQLInputValue, type StatementSync } from 'node:sqlite';
import { type ByteString, quote, toBytes } from '../base/bytes.ts';
import { type ErrorCode, StorageError } from '../base/errors.ts';
import type { DriverName } from '../base/values.ts';
import { fileError, type Layout, layoutOf, newDatabasePath, refusal, syncDirectory } from './layout.ts';
import { LOCKED } from './patience.ts';
import { APPLICATION_ID, FORMAT, writeSchema } from './schema.ts';

/** An open database: statements are compiled once, every failure is a StorageError, nothing waits beyond `lockMs`. */
export class Connection {
  readonly layout: Layout;
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  private constructor(layout: Layout, db: DatabaseSync) {
    this.layout = layout;
    this.#db = db;
  }

  /** Opens what is there. A newer format is `failed-precondition`, a damaged file `corrupt`. */
  static open(layout: Layout, lockMs: number): Connection {
    let db: DatabaseSync | undefined;
    try {
      // mode=rw: what is not there is not made.
      db = new DatabaseSync(new URL(`${fileUri(layout.database)}?mode=rw`), {
        timeout: lockMs,
        enableForeignKeyConstraints: true,
      });
      const application = pragma(db, 'application_id');
      const format = pragma(db, 'user_version');
      if (application !== APPLICATION_ID) {
        throw application === 0 && format === 0
          ? refusal('corrupt', layout.root, 'its database store.db is empty; restore it from a copy')
          : refusal(
              'failed-precondition',
              layout.root,
              'store.db is not the database of a layerstore; name another root',
            );
      }
      if (typeof format !== 'number' || format > FORMAT) {
        throw refusal(
          'failed-precondition',
          layout.root,
          `it has format ${format}, this layerstore knows up to ${FORMAT}; use a newer layerstore`,
        );
      }
      if (pragma(db, 'journal_mode = WAL') !== 'wal') {
        throw refusal('unsupported', layout.root, 'its filesystem cannot hold the database; use a local one');
      }
      // FULL: an answered commit survives a power cut. cell_size_check: a damaged page is an error before it is an answer.
      db.exec(
        `PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON; PRAGMA journal_size_limit = 4194304`,
      );
      return new Connection(layout, db);
    } catch (error) {
      db?.close();
      throw sqliteError(error, layout.root, 'open');
    }
  }

  /** Runs `body` in a transaction that sees one state and changes nothing. */
  read<T>(body: () => T): T {
    return this.#transaction('BEGIN', 'read', body);
  }

  /** Runs `body` as the only writer among all processes; durable when it returns, undone when it throws. */
  write<T>(body: () => T): T {
    return this.#transaction('BEGIN IMMEDIATE', 'change', body);
  }

  #transaction<T>(begin: string, action: string, body: () => T): T {
    try {
      this.#db.exec(begin);
      const answer = body();
      this.#db.exec('COMMIT');
      return answer;
    } catch (error) {
      // SQLite has rolled back by itself after some failures (a full disk).
      if (this.#db.isTransaction) this.#db.exec('ROLLBACK');
      throw sqliteError(error, this.layout.root, action);
    }
  }

  /** Writes a page as it is. */
  writeNothing(): void {
    this.write(() => this.#db.exec(`PRAGMA user_version = ${pragma(this.#db, 'user_version')}`));
  }

  /** Brings what is in the log into the database, and takes its space back, where nobody else is using it. */
  emptyLog(): void {
    try {
      this.#db.exec('PRAGMA wal_checkpoint(TRUNCATE)');
    } catch {
      // There was no room for that either: whoever wanted it is told what it lacks.
    }
  }

  /** All rows. `T` is what the (STRICT) schema makes of these columns. */
  all<T>(sql: string, ...values: SQLInputValue[]): T[] {
    return this.#statement(sql).all(...values) as T[];
  }

  first<T>(sql: string, ...values: SQLInputValue[]): T | undefined {
    return this.#statement(sql).get(...values) as T | undefined;
  }

  /** Answers the rows changed. */
  run(sql: string, ...values: SQLInputValue[]): number {
    return Number(this.#statement(sql).run(...values).changes);
  }

  /** The INTEGER PRIMARY KEY of the row that it inserts. */
  insert(sql: string, ...values: SQLInputValue[]): number {
    return Number(this.#statement(sql).run(...values).lastInsertRowid);
  }

  #statement(sql: string): StatementSync {
    const known = this.#statements.get(sql);
    if (known !== undefined) return known;
    const statement = this.#db.prepare(sql);
    this.#statements.set(sql, statement);
    return statement;
  }

  close(): void {
    this.#statements.clear();
    this.#db.close();
  }
}

/** RFC 8089, of any bytes: SQLite decodes it to what the path is. */
function fileUri(path: ByteString): string {
  return `file://${path.replace(/[^\w/.-]/g, (byte) => `%${byte.charCodeAt(0).toString(16).padStart(2, '0')}`)}`;
}

/** One pragma's value; at its first use the file is really read. */
function pragma(db: DatabaseSync, text: string): unknown {
  const row = db.prepare(`PRAGMA ${text}`).get();
  return row === undefined ? undefined : Object.values(row)[0];
}

/**
 * Makes the database whole under another name and then links it to its own: what has the name is complete, and of
 * several processes that do this at once one wins and the others see it.
 */
export function makeDatabase(layout: Layout, driver: DriverName): void {
  const path = newDatabasePath(layout.root);
  try {
    // SQLite gives `-wal` and `-shm` the mode of the database.
    const made = openSync(toBytes(path), 'wx', 0o600);
    try {
      fchmodSync(made, 0o600);
    } finally {
      closeSync(made);
    }
    const db = new DatabaseSync(toBytes(path));
    try {
      writeSchema(db, driver);
      pragma(db, 'journal_mode = WAL');
    } finally {
      db.close();
    }
    const fd = openSync(toBytes(path), 'r');
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    linkSync(toBytes(path), toBytes(layout.database));
    syncDirectory(layout.root);
  } catch (error) {
    // Another process was first; it may even have swept our half-made file away, which fails in many ways.
    if (existsSync(toBytes(layout.database))) return;
    throw isSqlite(error) ? sqliteError(error, layout.root, 'make') : fileError(error, 'make the store', layout.root);
  } finally {
    for (const end of ['', '-journal', '-wal', '-shm']) rmSync(toBytes(`${path}${end}` as ByteString), { force: true });
  }
}

const FULL = 'no space left on the filesystem';

// Primary result codes, sqlite.org/rescode.html.
const CODES: Readonly<Record<number, readonly [ErrorCode, string]>> = {
  3: ['permission-denied', 'permission denied; run as the owner of the store'],
  5: ['busy', 'another process holds its database; try again'],
  6: ['busy', 'another process holds its database; try again'],
  7: ['resource-exhausted', 'out of memory'],
  8: ['failed-precondition', 'its database cannot be written'],
  10: ['unavailable', 'the disk reported an error'],
  11: ['corrupt', 'its database store.db is damaged; restore it from a copy, or move the store away'],
  13: ['resource-exhausted', FULL],
  14: ['unavailable', 'its database cannot be opened; try again'],
  26: ['corrupt', 'store.db is not a database; restore it from a copy, or move the store away'],
};

// Extended ones that mean something else than their family.
const EXTENDED: Readonly<Record<number, readonly [ErrorCode, string]>> = {
  // SHMSIZE: the shared index could not grow. SHMMAP: no shared mmap (9p, NFS).
  4874: ['resource-exhausted', FULL],
  5386: ['unsupported', 'its filesystem has no shared memory maps; use a local one'],
  1032: ['failed-precondition', 'its database was moved or removed while it was open'],
};

/** Where fewer are free, opening a database or starting threads uses them up for a moment. */
const DESCRIPTORS_SPARE = 12;

/** READONLY and CANTOPEN: SQLite does not say why. */
const UNEXPLAINED: ReadonlySet<number> = new Set([8, 14]);

/** SQLite's failure as a StorageError; anything else passes as it is. */
function sqliteError(error: unknown, root: ByteString, action: string): unknown {
  if (!isSqlite(error)) return error;
  const family = error.errcode & 0xff;
  const known = EXTENDED[error.errcode];
  const reason = known === undefined && UNEXPLAINED.has(family) ? refusalOf(root) : undefined;
  if (reason !== undefined) return fileError(reason, `${action} the store`, root);
  const [code, state] = known ?? CODES[family] ?? ['internal', error.message];
  return new StorageError(code, `Cannot ${action} the store ${quote(root)}: ${state}`, {
    path: root,
    actual: error.message,
    ...(code === 'busy' ? { errno: LOCKED } : {}),
    ...(state === FULL ? { errno: 'ENOSPC' } : {}),
    cause: error,
  });
}

/** What the kernel answers where SQLite opens, and makes, its files; undefined where it now refuses nothing. */
function refusalOf(root: ByteString): unknown {
  const { database } = layoutOf(root);
  const fresh = toBytes(newDatabasePath(root));
  try {
    for (const end of ['', '-wal', '-shm']) {
      const path = toBytes(`${database}${end}` as ByteString);
      if (existsSync(path)) closeSync(openSync(path, 'r+'));
    }
    closeSync(openSync(fresh, 'wx', 0o600));
    return lacksDescriptors() ? Object.assign(new Error('too many open files'), { code: 'EMFILE' }) : undefined;
  } catch (error) {
    return error;
  } finally {
    rmSync(fresh, { force: true });
  }
}

/** Another thread may have let some go since: then what failed works now, and says nothing. */
function lacksDescriptors(): boolean {
  try {
    const limit = /^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'latin1'))?.[1];
    return limit !== undefined && readdirSync('/proc/self/fd').length + DESCRIPTORS_SPARE > Number(limit);
  } catch {
    return true;
  }
}

/** Whether another connection has what was asked for: SQLITE_BUSY and SQLITE_LOCKED. */
export function isHeldBySqlite(error: unknown): boolean {
  return isSqlite(error) && [5, 6].includes(error.errcode & 0xff);
}

/** SQLITE_NOTADB. */
export function isNoDatabase(error: unknown): boolean {
  return isSqlite(error) && (error.errcode & 0xff) === 26;
}

function isSqlite(error: unknown): error is Error & { readonly errcode: number } {
  return error instanceof Error && (error as NodeJS.ErrnoException).code === 'ERR_SQLITE_ERROR';
}
