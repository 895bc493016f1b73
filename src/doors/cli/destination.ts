import { fstatSync, type Stats } from 'node:fs';
import { type FileHandle, lstat, open, readlink, realpath, stat } from 'node:fs/promises';
import { type ByteString, fromBytes, quote, toBytes } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';
import type { ByteStream } from '../../base/values.ts';
import { type Context, say } from './context.ts';
import { explained, isSystemError, oneLine } from './errors.ts';
import { UsageError } from './parse.ts';

/** Refuses, before any work, to write an archive to a terminal. `target` undefined or `-`: standard output. */
export function checkDestination(context: Context, target: ByteString | undefined): void {
  if ((target === undefined || target === '-') && context.out.isTerminal) {
    throw new UsageError('an archive is not for a terminal: name a file with -o, or send the output on');
  }
}

/**
 * Writes `stream` to standard output or to the file `target`. A file appears whole or not at all. What is no
 * regular file (`/dev/null`, a fifo) is written as it is.
 */
export async function writeStream(context: Context, target: ByteString | undefined, stream: ByteStream): Promise<void> {
  const { signal } = context;
  await writeWith(context, target, stream, (file) => pour(stream, file, signal));
}

/** As `writeStream`; where the target is a regular file, `fill` writes it instead, at whatever places it likes. */
export async function writeWith(
  context: Context,
  target: ByteString | undefined,
  stream: ByteStream,
  fill: (file: FileHandle) => Promise<void>,
): Promise<void> {
  if (target === undefined || target === '-' || (await isStandardOutput(target))) {
    checkDestination(context, undefined);
    for await (const chunk of stream) await context.out.bytes(chunk);
    return;
  }
  try {
    await writeFile(target, stream, fill, context.signal);
  } catch (error) {
    throw explained(error, 'write', target);
  }
}

async function writeFile(
  target: ByteString,
  stream: ByteStream,
  fill: (file: FileHandle) => Promise<void>,
  signal: AbortSignal,
): Promise<void> {
  const existing = await resolveTarget(target);
  if (existing.kind === 'special') {
    await using file = await open(toBytes(existing.path), 'w');
    return await pour(stream, file, signal);
  }
  const { openPending } = await import('./pending-file.ts'); // of Linux, as help is not
  await using pending = await openPending(existing.path);
  if (existing.kind === 'file') await pending.file.chmod(existing.mode);
  await fill(pending.file);
  await pending.place();
}

type Target =
  /** `path` is behind all symlinks: they stay, what they point to is replaced, or made. */
  | { readonly kind: 'file'; readonly path: ByteString; readonly mode: number }
  | { readonly kind: 'absent'; readonly path: ByteString }
  /** No regular file, or one that no path leads to: written by the name that was given. */
  | { readonly kind: 'special'; readonly path: ByteString };

const LINKS_MAX = 40; // as the kernel (path_resolution(7))

async function resolveTarget(target: ByteString): Promise<Target> {
  const found = await orAbsent(stat(toBytes(target)));
  if (found === undefined) return { kind: 'absent', path: await behindLinks(target) };
  if (found.isDirectory()) {
    throw new StorageError('invalid-argument', `Cannot write ${quote(target)}: it is a directory`);
  }
  // Links in /proc lead to what has no path: pipes, sockets, files that were deleted.
  const path = await orAbsent(realpath(toBytes(target), { encoding: 'buffer' }));
  const there = path && (await orAbsent(lstat(path)));
  if (path === undefined || !found.isFile() || there === undefined || !isSame(there, found)) {
    return { kind: 'special', path: target };
  }
  return { kind: 'file', path: fromBytes(path), mode: found.mode & 0o7777 };
}

/** Where a symlink that leads to nothing leads. */
async function behindLinks(target: ByteString): Promise<ByteString> {
  let path = target;
  for (let links = 0; links < LINKS_MAX; links++) {
    const found = await orAbsent(lstat(toBytes(path)));
    if (found === undefined || !found.isSymbolicLink()) return path;
    const to = fromBytes(await readlink(toBytes(path), { encoding: 'buffer' }));
    path = to.startsWith('/') ? to : (`${path.slice(0, path.lastIndexOf('/') + 1)}${to}` as ByteString);
  }
  return path;
}

/** `/dev/stdout`, `/proc/self/fd/1` and whatever else leads there; a socket could not even be opened by that name. */
async function isStandardOutput(target: ByteString): Promise<boolean> {
  const found = await stat(toBytes(target)).catch(() => undefined);
  return found !== undefined && isSame(found, fstatSync(1));
}

function isSame(one: Stats, other: Stats): boolean {
  return one.ino === other.ino && one.dev === other.dev;
}

async function orAbsent<T>(looking: Promise<T>): Promise<T | undefined> {
  try {
    return await looking;
  } catch (error) {
    if (isSystemError(error) && error.code === 'ENOENT') return undefined;
    throw error;
  }
}

async function pour(stream: ByteStream, file: FileHandle, signal: AbortSignal): Promise<void> {
  for await (const chunk of stream) {
    signal.throwIfAborted();
    let written = 0;
    while (written < chunk.length) written += (await file.write(chunk, written)).bytesWritten;
  }
}

/** For the `onNote` of what is written: on standard error. */
export function noteTo(context: Context): (note: string) => void {
  return (note) => say(context, `note: ${oneLine(note)}`);
}
