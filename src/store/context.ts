import { type ByteString, joinBytes } from '../base/bytes.ts';
import type { Log } from '../base/log.ts';
import type { Abortable, LayerId } from '../base/values.ts';
import type { StorageDriver } from '../graph/storage-driver.ts';
import type { Threads } from '../graph/threads.ts';
import { randomBytes } from '../linux/random.ts';
import type { Database } from './database.ts';
import type { Making } from './rows.ts';
import type { Sweeper } from './sweeper.ts';
import type { Turns } from './turns.ts';

/** What every part of an open store works with. */
export interface StoreContext {
  readonly database: Database;
  readonly driver: StorageDriver;
  readonly threads: Threads;
  readonly log: Log;
  /** By name: what this handle has announced and was to remove, and could not. */
  readonly left: Map<string, Making>;
  /** What is gone from disk and still announced, because the database could not be written. */
  readonly unended: Making[];
  readonly sweeper: Sweeper;
  readonly turns: Turns;
}

/** For a call with a signal: it waits no longer for other processes than its caller does. */
export function heeding(context: StoreContext, { signal }: Abortable): StoreContext {
  return signal === undefined ? context : { ...context, database: context.database.waiting({ signal }) };
}

const UNDO_MS = 500;

/** For taking back what failed: its caller waits no longer than that. What stays announced goes with the session. */
export function undoing(context: StoreContext): StoreContext {
  return { ...context, database: context.database.waiting({ ms: UNDO_MS }) };
}

/** A new driver id: 64 hexadecimal characters, as Docker's. */
export function newLayerId(): LayerId {
  return randomBytes(32).toString('hex') as LayerId;
}

/** Relative to the root: what the database keeps of a layer's split record. */
export function recordOf(id: LayerId): string {
  return `records/${id}.split.zst`;
}

/** Relative to the root: a tar kept because no replay would give it back; its compression shows in its content. */
export function keptOf(id: LayerId): string {
  return `records/${id}.tar.kept`;
}

/** A path relative to the root, as system calls take it. */
export function inRoot(context: StoreContext, relative: string): ByteString {
  return joinBytes(context.database.layout.root, relative as ByteString);
}

/** What is announced before a layer is made. */
export function newLayerMakings(id: LayerId): Making[] {
  return [
    { kind: 'layer', name: id },
    { kind: 'file', name: recordOf(id) },
  ];
}

/** Everything on disk that may belong to a layer. */
export function everyMakingOf(id: LayerId): Making[] {
  return [
    { kind: 'layer', name: id },
    { kind: 'file', name: recordOf(id) },
    { kind: 'file', name: keptOf(id) },
  ];
}
