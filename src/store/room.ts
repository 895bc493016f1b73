import { quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import type { Connection } from './connection.ts';
import type { Layout } from './layout.ts';
import { canOpen, freeReserve, isFull, isShort, takeReserve } from './reserve.ts';

// Who may write when the disk is nearly full: removals are given the reserve, what grows the store is refused without it.
//
// SQLite maps `-shm` into memory and allocates it by one byte in each 4 KiB. Where blocks are smaller (ext4 of 1 KiB), or
// each write allocates (btrfs), a later store into the map may find the disk full: SIGBUS, the end of the process. The
// first frame of the log writes all of the map, so where room is short one is written while there is room for it.

/** An open database, and what may be written to it. */
export class Room {
  readonly db: Connection;
  readonly #layout: Layout;
  /** This handle gave the reserve, and has not taken all of it again. */
  #gave: boolean;
  /** That are under way. */
  #removals = 0;
  /** All of `-shm` was written. */
  #mapped = false;

  private constructor(db: Connection, gave: boolean) {
    this.db = db;
    this.#layout = db.layout;
    this.#gave = gave;
  }

  /** By `connect`; what that takes on a full disk is given once. */
  static open(layout: Layout, connect: () => Connection): Room {
    let gave = isShort(layout) && assured(layout);
    let db: Connection;
    try {
      db = connect();
    } catch (error) {
      if (!isFull(error) || !freeReserve(layout)) throw error;
      gave = true;
      db = connect();
    }
    if (!gave) takeReserve(layout, { spare: true });
    return new Room(db, gave);
  }

  /** Refuses to grow while there is no reserve: what it gave is for removing. */
  toGrow(): void {
    if (takeReserve(this.#layout, { spare: true })) return;
    throw noSpace(this.#layout, 'the disk is full but for what removing takes; remove images or layers, or make room');
  }

  /** Until `removed`: where room is short, gives the reserve before it is missed. */
  toRemove(): void {
    if (isShort(this.#layout)) this.#give();
    this.#removals++;
  }

  removed(): void {
    this.#removals--;
    if (this.#removals > 0 || !this.#gave) return;
    this.db.emptyLog();
    this.#gave = !takeReserve(this.#layout, { spare: false });
  }

  growing<T>(body: (db: Connection) => T): T {
    this.toGrow();
    if (!this.#mapped && isShort(this.#layout)) {
      if (!canOpen(this.#layout)) throw noSpace(this.#layout, FULL);
      this.#map();
    }
    return this.#write(body);
  }

  removing<T>(body: (db: Connection) => T): T {
    try {
      if (!this.#mapped && isShort(this.#layout)) {
        if (assured(this.#layout)) this.#gave = true;
        this.#map();
      }
      if (this.#gave) this.db.emptyLog();
      return this.#write(body);
    } catch (error) {
      if (!isFull(error)) throw error;
    }
    this.#give();
    return this.#write(body);
  }

  #give(): void {
    this.#gave = true;
    freeReserve(this.#layout);
    if (!this.#mapped) {
      assured(this.#layout);
      this.#map();
    }
    this.db.emptyLog();
  }

  #map(): void {
    this.db.writeNothing();
    this.#mapped = true;
  }

  #write<T>(body: (db: Connection) => T): T {
    const answer = this.db.write(() => body(this.db));
    this.#mapped = true;
    return answer;
  }

  /** The reserve is taken again from what the log took, or whatever else is free. */
  close(): void {
    if (this.#gave) this.db.emptyLog();
    this.db.close();
    takeReserve(this.#layout, { spare: false });
  }
}

const FULL = 'no space left on the filesystem';

/** Makes sure that there is what opening takes; answers whether it took the reserve. */
function assured(layout: Layout): boolean {
  if (canOpen(layout)) return false;
  if (freeReserve(layout) && canOpen(layout)) return true;
  throw noSpace(layout, FULL);
}

function noSpace({ root }: Layout, state: string): StorageError {
  const facts = { path: root, errno: 'ENOSPC' };
  return new StorageError('resource-exhausted', `Cannot use the store ${quote(root)}: ${state}`, facts);
}
