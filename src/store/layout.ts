import {
  chmodSync,
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  realpathSync,
  rmdirSync,
  rmSync,
  statfsSync,
  statSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { type ByteString, fromBytes, fromText, joinBytes, quote, toBytes } from '../base/bytes.ts';
import { type ErrorCode, nodeErrno, StorageError } from '../base/errors.ts';
import type { DriverName } from '../base/values.ts';
import { bootId } from '../linux/kernel.ts';

// Everything here is node:fs, not linux/: the database's thread uses it, and loading the FFI library there would cost
// more than all its work (facts.md, "A worker starts in…").

/** Where a store keeps what; absolute paths. docs/on-disk.md tells what is in each file. */
export interface Layout {
  readonly root: ByteString;
  /** SQLite, with `-wal` and `-shm` beside it. Its existence is what makes a directory a store. */
  readonly database: ByteString;
  /** Split records, and tars that are kept because no replay would give them back. */
  readonly records: ByteString;
  /** Files being made; each is announced in the database first. */
  readonly tmp: ByteString;
  /** Locks and holds of this boot; those of other boots are removed at opening. */
  readonly run: ByteString;
  /** One locked file for each open database that makes something (`makers.ts`). */
  readonly sessions: ByteString;
}

/** SQLite takes paths of 512 bytes (SQLITE_MAX_PATHNAME), those of its journals and of a new database included. */
const ROOT_BYTES_MAX = 450;
const DATABASE = 'store.db';
const NEW_DATABASE = '.store.db.';

/** The layout below `root`, an absolute path. */
export function layoutOf(root: ByteString): Layout {
  const run = below(root, `run/${bootId()}`);
  return {
    root,
    database: below(root, DATABASE),
    records: below(root, 'records'),
    tmp: below(root, 'tmp'),
    run,
    sessions: below(run, 'sessions'),
  };
}

function below(directory: ByteString, name: string): ByteString {
  return joinBytes(directory, name as ByteString);
}

/** The driver's directory: its alone. */
export function homeOf(root: ByteString, driver: DriverName): ByteString {
  return below(root, driver);
}

/** Where a new database is built before it gets its name: made anew, whoever has the number of this process too. */
export function newDatabasePath(root: ByteString): ByteString {
  return below(root, `${NEW_DATABASE}${process.pid}-${Math.random().toString(36).slice(2)}`);
}

/** What may lie in a directory that becomes a store: homes of drivers used without one (D5), and left-overs of us. */
const BESIDE: ReadonlySet<string> = new Set(['lost+found', 'overlay2', 'fuse-overlayfs', 'aufs', 'vfs']);

function mayLieBeside(name: string): boolean {
  return BESIDE.has(name) || name.startsWith(NEW_DATABASE) || name.startsWith('.layerstore');
}

/**
 * `absent`, `fresh` (a store may be made here) or `store`. A directory with other things in it is
 * `failed-precondition`, a store whose database is gone `corrupt`.
 */
export function examineRoot(root: ByteString): 'absent' | 'fresh' | 'store' {
  let names: string[];
  try {
    names = readdirSync(toBytes(root));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' && isSymlink(root)) {
      throw refusal('failed-precondition', root, 'it is a symbolic link to nothing; make what it leads to');
    }
    if (code === 'ENOENT') return 'absent';
    if (code === 'ENOTDIR') {
      throw refusal('failed-precondition', root, 'it, or a part of its path, is no directory; name another root');
    }
    throw fileError(error, 'open the store', root);
  }
  // Looked up once more before any refusal: another process may be making the store right now.
  const isStore = (): boolean => names.includes(DATABASE) || existsSync(toBytes(below(root, DATABASE)));
  const foreign = names.filter((name) => !mayLieBeside(name));
  if (foreign.length === 0) return isStore() ? 'store' : 'fresh';
  if (isStore()) return 'store';
  if (names.includes('records') || names.includes(`${DATABASE}-wal`)) {
    throw refusal(
      'corrupt',
      root,
      `its database ${DATABASE} is gone; restore it from a copy, or move the directory away`,
    );
  }
  const shown = foreign.slice(0, 3).map(shownPath).join(', ');
  const more = foreign.length > 3 ? ` and ${foreign.length - 3} more` : '';
  throw refusal(
    'failed-precondition',
    root,
    `it is not a store and not empty (it holds ${shown}${more}); name an empty or absent directory`,
  );
}

function isSymlink(path: ByteString): boolean {
  return lstatSync(toBytes(path), { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
}

/** Makes `root` and the directories above it; answers whether root itself is new. Safe against others doing the same. */
export function makeRoot(root: ByteString): boolean {
  try {
    mkdirSync(toBytes(dirname(root) as ByteString), { recursive: true });
    return makeDirectory(root, 0o710);
  } catch (error) {
    throw fileError(error, 'make the store', root);
  }
}

/** Takes back `makeRoot`, unless somebody has put something there. */
export function unmakeRoot(root: ByteString): void {
  try {
    rmdirSync(toBytes(root));
  } catch {
    // Not empty, or gone already: then it is somebody else's, and nothing of ours is left.
  }
}

/** Remakes what is missing in a store, closes it to others, removes what other boots and dead makers of a store left. */
export function settleRoot(layout: Layout): void {
  try {
    // Layers hold setuid programs of any age: no user may walk in (CVE-2021-41091). A stricter mode is the owner's wish.
    const root = toBytes(layout.root);
    if ((statSync(root).mode & 0o007) !== 0) chmodSync(root, 0o710);
    const runs = dirname(layout.run) as ByteString;
    for (const path of [layout.records, layout.tmp, runs, layout.run, layout.sessions]) {
      const isNew = makeDirectory(path, 0o700);
      if (!isNew && (statSync(toBytes(path)).mode & 0o7777) !== 0o700) chmodSync(toBytes(path), 0o700);
      if (isNew && path === layout.run) makeRoomLocks(layout);
    }
    for (const name of readdirSync(toBytes(runs), 'buffer')) {
      const path = below(runs, fromBytes(name));
      if (path !== layout.run) rmSync(toBytes(path), { recursive: true, force: true });
    }
    // The store stands, so whoever still builds one in such a file will find that it came too late.
    for (const name of readdirSync(root)) {
      if (name.startsWith(NEW_DATABASE)) rmSync(toBytes(below(layout.root, name)), { force: true });
    }
  } catch (error) {
    throw fileError(error, 'open the store', layout.root);
  }
}

/** What is locked where room is short; on a full disk they could not be made (xfs). */
export function roomLocks({ run }: Layout): { readonly turn: ByteString; readonly given: ByteString } {
  return { turn: below(run, 'room'), given: below(run, 'given') };
}

function makeRoomLocks(layout: Layout): void {
  for (const path of Object.values(roomLocks(layout))) closeSync(openSync(toBytes(path), 'a', 0o600));
}

/** False where it was there. The mode is exact: not by mkdir's argument, which the umask cuts. */
function makeDirectory(path: ByteString, mode: number): boolean {
  try {
    mkdirSync(toBytes(path), { mode });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
  chmodSync(toBytes(path), mode);
  return true;
}

/** The path without links and dots, as mountinfo shows it. */
export function canonical(root: ByteString): ByteString {
  let path: ByteString;
  try {
    path = fromBytes(realpathSync.native(toBytes(root), 'buffer'));
  } catch (error) {
    throw fileError(error, 'open the store', root);
  }
  if (path.length <= ROOT_BYTES_MAX) return path;
  const state = `its path has ${path.length} bytes, more than the ${ROOT_BYTES_MAX} that its database can have; name a shorter one`;
  throw refusal('invalid-argument', root, state);
}

/** Makes the names in a directory durable. */
export function syncDirectory(path: ByteString): void {
  const fd = openSync(toBytes(path), 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

const CODES: Readonly<Record<string, readonly [ErrorCode, string]>> = {
  ENOENT: ['not-found', 'no such file or directory'],
  EACCES: ['permission-denied', 'permission denied; run as the owner of the store'],
  EPERM: ['permission-denied', 'not permitted; run as the owner of the store'],
  ENOSPC: ['resource-exhausted', 'no space left on the filesystem'],
  EDQUOT: ['resource-exhausted', 'the quota is used up'],
  EMFILE: ['resource-exhausted', 'this process has too many open files'],
  ENFILE: ['resource-exhausted', 'the machine has too many open files'],
  EROFS: ['failed-precondition', 'the filesystem is read-only'],
  ENOTDIR: ['failed-precondition', 'a part of the path is no directory'],
  EEXIST: ['failed-precondition', 'a part of the path is no directory'],
  ENAMETOOLONG: ['invalid-argument', 'the path is too long'],
  ELOOP: ['failed-precondition', 'too many symbolic links'],
  EIO: ['unavailable', 'the disk reported an error'],
};

/** A failure of node:fs as a StorageError; what is one already passes. */
export function fileError(error: unknown, action: string, path: ByteString): StorageError {
  if (error instanceof StorageError) return error;
  const { syscall } = error as NodeJS.ErrnoException;
  const errno = nodeErrno(error);
  const [code, known] = CODES[errno] ?? ['internal', (error as Error).message];
  const state = errno === 'ENOSPC' && lacksInodes(path) ? 'no inodes are left on the filesystem' : known;
  return new StorageError(code, `Cannot ${action} ${quote(path)}: ${state}`, {
    path,
    ...(errno === '' ? {} : { errno }),
    ...(syscall === undefined ? {} : { syscall }),
    cause: error,
  });
}

/** ENOSPC with room for bytes: a filesystem may hold so many files and no more. */
function lacksInodes(path: ByteString): boolean {
  try {
    const own = toBytes(path);
    const { files, ffree } = statfsSync(existsSync(own) ? own : toBytes(dirname(path) as ByteString));
    return files > 0 && ffree === 0;
  } catch {
    return false; // only a better word is lost
  }
}

/** "Cannot open the store ROOT: …" */
export function refusal(code: ErrorCode, root: ByteString, state: string, cause?: unknown): StorageError {
  return new StorageError(code, `Cannot open the store ${quote(root)}: ${state}`, { path: root, cause });
}

/** Text (a path, a name of ours) as messages show it. */
export function shownPath(path: string): string {
  return quote(fromText(path) as ByteString);
}
