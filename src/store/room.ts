import { quote } from '../base/bytes.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import type { Connection } from './connection.ts';
import type { Layout } from './layout.ts';
import { canOpen, freeReserve, isFull, isShort, takeReserve } from './reserve.ts';
import { inTurn, isUnused, useGiven } from './room-turn.ts';

// Who may write when the disk is nearly full: removals are given the reserve, what grows the store is refused without it.
//
// SQLite maps `-shm` into memory and allocates it by one byte in each 4 KiB. Where blocks are smaller (ext4 of 1 KiB), or
// each write allocates (btrfs), a later store into the map may find the disk full: SIGBUS, the end of the process. The
// first frame of the log writes all of the map, so where room is short one is written while there is room for it.

/** An open database, and what may be written to it. */
export class Room {
  readonly db: Connection;
  readonly #layout: Layout;
  readonly #lockMs: number;
  /** This handle gave the reserve, and has not taken all of it again. */
  #gave: boolean;
  /** Removals that are under way. */
  #removals = 0;
  /** What keeps others from taking the reserve while they are. */
  #using: { close(): void } | undefined;
  /** All of `-shm` was written. */
  #mapped = false;

  private constructor(db: Connection, lockMs: number, gave: boolean) {
    this.db = db;
    this.#layout = db.layout;
    this.#lockMs = lockMs;
    this.#gave = gave;
  }

  /** Opens with `connect`, which has the reserve for it. Whoever waits for others longer than `lockMs` is `busy`. */
  static open(layout: Layout, lockMs: number, connect: () => Connection): Room {
    let gave = false;
    const assured = (): Connection => {
      if (isShort(layout)) assure(layout);
      return connect();
    };
    const withReserve = (): Connection => {
      try {
        return assured();
      } catch (error) {
        if (!isFull(error)) throw error;
      }
      gave = true;
      freeReserve(layout);
      return assured();
    };
    const db = isShort(layout) ? inTurn(layout, lockMs, withReserve) : withReserve();
    if (!gave) takeReserve(layout, { spare: true });
    return new Room(db, lockMs, gave);
  }

  /** Refuses to grow while there is no reserve: what it gave is for removing. */
  toGrow(): void {
    if (takeReserve(this.#layout, { spare: true })) return;
    throw noSpace(this.#layout, FULL);
  }

  /** Until `removed`: where room is short, gives the reserve before it is missed. */
  toRemove(): void {
    if (isShort(this.#layout)) this.#inTurn(() => this.#give());
    this.#removals++;
  }

  removed(): void {
    this.#removals--;
    if (this.#removals > 0 || !this.#gave) return;
    this.db.emptyLog();
    this.#gave = !this.#take();
  }

  growing<T>(body: (db: Connection) => T): T {
    this.toGrow();
    if (!isShort(this.#layout)) return this.#write(body);
    try {
      return this.#inTurn(() => {
        this.#map();
        return this.#write(body);
      });
    } catch (error) {
      throw isFull(error) ? noSpace(this.#layout, FULL) : error; // but for the reserve
    }
  }

  removing<T>(body: (db: Connection) => T): T {
    try {
      if (!isShort(this.#layout)) return this.#write(body);
    } catch (error) {
      if (!isFull(error)) throw error;
    }
    this.#removals++;
    try {
      return this.#inTurn(() => this.#removeInTurn(body));
    } finally {
      this.removed();
    }
  }

  #removeInTurn<T>(body: (db: Connection) => T): T {
    try {
      this.#map();
      if (this.#gave) this.db.emptyLog();
      return this.#write(body);
    } catch (error) {
      if (!isFull(error)) throw error;
    }
    this.#give();
    return this.#write(body);
  }

  /** In a turn. */
  #give(): void {
    this.#gave = true;
    freeReserve(this.#layout);
    this.#using ??= useGiven(this.#layout);
    this.#map();
    this.db.emptyLog();
  }

  /** Answers whether the reserve is whole. Whoever uses what it gave now, takes it again after that. */
  #take(): boolean {
    this.#using?.close();
    this.#using = undefined;
    const layout = this.#layout;
    const take = (): boolean => takeReserve(layout, { spare: false });
    try {
      return isShort(layout) ? inTurn(layout, TAKING_MS, () => isUnused(layout) && take()) : take();
    } catch (error) {
      if (!isStorageError(error, 'busy')) throw error;
      return false;
    }
  }

  #map(): void {
    if (this.#mapped) return;
    assure(this.#layout);
    this.db.writeNothing();
    this.#mapped = true;
  }

  #write<T>(body: (db: Connection) => T): T {
    const answer = this.db.write(() => body(this.db));
    this.#mapped = true;
    return answer;
  }

  #inTurn<T>(body: () => T): T {
    return inTurn(this.#layout, this.#lockMs, body);
  }

  /** The reserve is taken again from what the log took, or whatever else is free. */
  close(): void {
    if (this.#gave) this.db.emptyLog();
    this.db.close();
    this.#take();
  }
}

const FULL = 'the disk is full but for what removing takes; remove images or layers, or make room';

/** Others' turns are shorter, but for one that waits for the disk. */
const TAKING_MS = 100;

/** Makes sure that there is what opening takes. */
function assure(layout: Layout): void {
  if (!canOpen(layout)) throw noSpace(layout, 'no space left on the filesystem');
}

function noSpace({ root }: Layout, state: string): StorageError {
  const facts = { path: root, errno: 'ENOSPC' };
  return new StorageError('resource-exhausted', `Cannot use the store ${quote(root)}: ${state}`, facts);
}
