import { type FileHandle, lstat, open, realpath } from 'node:fs/promises';
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
  if (target === undefined || target === '-') {
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
  if (existing?.special) {
    await using file = await open(toBytes(existing.path), 'w');
    return await pour(stream, file, signal);
  }
  const { openPending } = await import('./pending-file.ts'); // of Linux, as help is not
  await using pending = await openPending(existing?.path ?? target);
  if (existing !== undefined) await pending.file.chmod(existing.mode);
  await fill(pending.file);
  await pending.place();
}

interface Target {
  /** Behind all symlinks: the link stays, what it points to is replaced. */
  readonly path: ByteString;
  readonly special: boolean;
  readonly mode: number;
}

async function resolveTarget(target: ByteString): Promise<Target | undefined> {
  try {
    const path = fromBytes(await realpath(toBytes(target), { encoding: 'buffer' }));
    const stat = await lstat(toBytes(path));
    if (stat.isDirectory()) {
      throw new StorageError('invalid-argument', `Cannot write ${quote(target)}: it is a directory`);
    }
    return { path, special: !stat.isFile(), mode: stat.mode & 0o7777 };
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
