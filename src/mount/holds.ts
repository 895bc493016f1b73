import { readFileSync } from 'node:fs';
import { type ByteString, fromBytes, quote, toBytes } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { writeFully } from '../fs/atomic.ts';
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  close,
  mkdirat,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  openat,
  readDirectory,
  renameat,
  unlinkat,
} from '../linux/inode.ts';
import { mountNamespace, processStart } from '../linux/kernel.ts';
import { EEXIST, ENOENT, ENOTEMPTY } from '../linux/libc.ts';
import { randomUUID } from '../linux/random.ts';
import { LOCK_EX, LOCK_SH, tryFlock } from '../linux/sync.ts';
import { formatHold, type HoldRecord, parseHold } from './hold.ts';

/** A hold as it is found in the directory. */
export interface Hold extends HoldRecord {
  readonly path: ByteString;
  /** Of a process hold: whether its process lives. The others always do. */
  readonly alive: boolean;
}

/** A hold that this process has just taken. */
export interface TakenHold extends HoldRecord {
  readonly path: ByteString;
  /** Keeps the lock of a process hold; closing it is death. Undefined for the other kinds. */
  readonly fd?: number;
}

const COMMAND_BYTES_MAX = 200;

/**
 * The holds of `RUN/holds`: `<id>/<uuid>`, a file each (driver-behaviour D3b). A process hold is locked by flock(2) for
 * as long as its process lives, so that no death leaves one behind. Callers have the lock of the id.
 */
export class Holds {
  readonly #directory: ByteString;

  constructor(directory: ByteString) {
    this.#directory = directory;
  }

  /** All holds on `id`. Files under a dot name are left-overs of a killed process, and removed. */
  read(id: ByteString): Hold[] {
    return this.#list(id, (path) => void unlinkat(AT_FDCWD, path, 0, ENOENT));
  }

  /** All holds on `id`, for whoever has not its lock: nothing is touched, and what goes meanwhile is left out. */
  peek(id: ByteString): Hold[] {
    return this.#list(id, () => undefined);
  }

  #list(id: ByteString, onHidden: (path: ByteString) => void): Hold[] {
    const directory = this.#of(id);
    const fd = openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ENOENT);
    if (fd < 0) return [];
    try {
      const holds: Hold[] = [];
      for (const { name } of readDirectory(fd, directory)) {
        const path = `${directory}/${name}` as ByteString;
        if (name.startsWith('.')) {
          onHidden(path);
          continue;
        }
        const hold = readHold(path);
        if (hold !== undefined) holds.push(hold);
      }
      return holds;
    } finally {
      close(fd);
    }
  }

  /** Takes a hold in the name of this process. It appears complete and locked, or not at all. */
  take(id: ByteString, what: Pick<HoldRecord, 'kind' | 'name' | 'on' | 'label'>): TakenHold {
    const directory = this.#of(id);
    mkdirat(AT_FDCWD, directory, 0o700, EEXIST);
    const record: HoldRecord = { ...what, ...thisProcess(), since: new Date().toISOString() };
    const uuid = randomUUID();
    const hidden = `${directory}/.${uuid}` as ByteString;
    const path = `${directory}/${uuid}` as ByteString;
    const fd = openat(AT_FDCWD, hidden, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    try {
      writeFully(fd, toBytes(formatHold(record)));
      if (what.kind === 'process') tryFlock(fd, LOCK_EX);
      renameat(AT_FDCWD, hidden, AT_FDCWD, path);
    } catch (error) {
      close(fd);
      unlinkat(AT_FDCWD, hidden, 0, ENOENT);
      throw error;
    }
    if (what.kind === 'process') return { ...record, path, fd };
    close(fd);
    return { ...record, path };
  }

  /** Lets go; false when the hold was not there any more. */
  drop(id: ByteString, hold: { readonly path: ByteString; readonly fd?: number }): boolean {
    const was = unlinkat(AT_FDCWD, hold.path, 0, ENOENT) === 0;
    if (hold.fd !== undefined) close(hold.fd);
    unlinkat(AT_FDCWD, this.#of(id), AT_REMOVEDIR, ENOENT, ENOTEMPTY, EEXIST);
    return was;
  }

  #of(id: ByteString): ByteString {
    return `${this.#directory}/${id}` as ByteString;
  }
}

function readHold(path: ByteString): Hold | undefined {
  const fd = openat(AT_FDCWD, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, ENOENT);
  if (fd < 0) return undefined;
  try {
    const record = parseHold(fromBytes(readFileSync(fd)), path);
    // A shared lock, so that two who look at once do not take each other for the holder.
    const alive = record.kind !== 'process' || !tryFlock(fd, LOCK_SH);
    return { ...record, path, alive };
  } finally {
    close(fd);
  }
}

function thisProcess(): Pick<HoldRecord, 'pid' | 'start' | 'namespace' | 'command'> {
  const start = processStart(process.pid);
  if (start === undefined) {
    throw new StorageError(
      'unsupported',
      `Cannot take a hold: /proc does not show process ${quote(`${process.pid}` as ByteString)}`,
    );
  }
  return { pid: process.pid, start, namespace: mountNamespace(), command: commandLine(process.pid) };
}

/** The command line of a process, its arguments apart by spaces, or its short name; empty when it is gone. */
export function commandLine(pid: number): ByteString {
  try {
    const line = fromBytes(readFileSync(`/proc/${pid}/cmdline`))
      .replaceAll('\0', ' ')
      .trim();
    if (line !== '') return line.slice(0, COMMAND_BYTES_MAX) as ByteString;
    return fromBytes(readFileSync(`/proc/${pid}/comm`)).trim() as ByteString; // a kernel thread has no command line
  } catch {
    return '' as ByteString; // it ended meanwhile: there is nothing left to name
  }
}
