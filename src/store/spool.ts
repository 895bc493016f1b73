import { closeSync, constants, createReadStream, fstatSync, openSync, open as openWith, statSync } from 'node:fs';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { type ByteString, fromText, joinBytes, toBytes } from '../base/bytes.ts';
import { type ErrorCode, isStorageError, record, StorageError } from '../base/errors.ts';
import { until } from '../base/until.ts';
import { spoolBlob } from '../graph/blobs.ts';
import { randomUUID } from '../linux/random.ts';
import { openArchive, outerCompression } from '../transport/open-archive.ts';
import type { ImageArchive } from '../transport/source.ts';
import type { StoreContext } from './context.ts';
import { fileError, shownPath } from './layout.ts';
import type { Bytes, Progressing } from './types.ts';

/** An archive that can be read at any place, from whatever the caller has: pipes and compressed files go to disk first. */
export async function openSource(context: StoreContext, source: Bytes, options: Progressing): Promise<ImageArchive> {
  try {
    return await openBytes(context, source, options);
  } catch (error) {
    if (!isStorageError(error, 'corrupt') || !error.message.endsWith(NO_TAR)) throw error;
    // gzip and zstd were unpacked before, other compressions refused by name.
    throw new StorageError('corrupt', `${error.message} (nor gzip or zstd around one)`, { cause: error });
  }
}

/** What a load failed of, with the file that the archive came from: who loads several must know which is broken. */
export function inSource(source: Bytes, error: unknown): unknown {
  if (typeof source !== 'string' || !isStorageError(error)) return error;
  if (!ARCHIVES_FAULTS.has(error.code) || error.path === source) return error;
  const { code, message, stack: _, cause: __, ...facts } = record(error);
  const text = message.includes(' the archive')
    ? message.replace(' the archive', () => ` the archive ${shownPath(source)}`)
    : `Cannot load ${shownPath(source)}: ${message.replace(/^Cannot /, 'cannot ')}`;
  return new StorageError(code, text, { ...facts, cause: error });
}

const NO_TAR = 'it is no tar archive';
const ARCHIVES_FAULTS: ReadonlySet<ErrorCode> = new Set(['corrupt', 'unsupported']);

async function openBytes(context: StoreContext, source: Bytes, options: Progressing): Promise<ImageArchive> {
  if (typeof source !== 'string') return openSpooled(context, source as AsyncIterable<Uint8Array>, options);
  try {
    const stat = statSync(source);
    if (stat.isDirectory()) return await openArchive(source);
    if (stat.isFile()) return await openFile(context, fileOf(await open(source, constants.O_RDONLY)), options);
    const stream = await openStream(source, stat.isFIFO(), options.signal);
    try {
      return await openSpooled(context, stream, options);
    } finally {
      stream.destroy();
    }
  } catch (error) {
    throw isErrno(error) ? fileError(error, 'load', fromText(source)) : error;
  }
}

/** Closed once, however often it is asked to. */
interface OpenFile {
  readonly fd: number;
  close(): Promise<void>;
}

function fileOf(handle: FileHandle): OpenFile {
  return { fd: handle.fd, close: () => handle.close() };
}

/** The open file's archive, which closes it at its end; so does a failure. */
async function openFile(context: StoreContext, file: OpenFile, options: Progressing): Promise<ImageArchive> {
  const { fd } = file;
  try {
    const length = fstatSync(fd).size;
    if (length === 0 || outerCompression(fd) === 'none') return closing(await openArchive(fd), file);
    const plain = fileOf(await temporaryFile(context));
    try {
      await spoolBlob(context.threads, { fd, offset: 0, length }, plain.fd, {
        signal: options.signal,
        onProgress: ([bytesDone]) =>
          options.onProgress?.({ step: 'read', bytesDone: bytesDone ?? 0, bytesTotal: length }),
      });
      if (outerCompression(plain.fd) !== 'none') {
        throw new StorageError('unsupported', 'Cannot load the archive: it is compressed twice; unpack it once');
      }
      const archive = closing(await openArchive(plain.fd), plain);
      await file.close();
      return archive;
    } catch (error) {
      await plain.close();
      throw error;
    }
  } catch (error) {
    await file.close();
    throw error;
  }
}

async function openSpooled(
  context: StoreContext,
  bytes: AsyncIterable<Uint8Array>,
  options: Progressing,
): Promise<ImageArchive> {
  const { signal, onProgress } = options;
  const file = await temporaryFile(context);
  try {
    let bytesDone = 0;
    let told = 0;
    for await (const chunk of signal === undefined ? bytes : until(bytes, signal)) {
      await writeTo(context, file, chunk);
      bytesDone += chunk.length;
      const now = Date.now();
      if (now - told < 100) continue;
      told = now;
      onProgress?.({ step: 'read', bytesDone });
    }
    onProgress?.({ step: 'read', bytesDone });
  } catch (error) {
    await file.close();
    throw error;
  }
  return openFile(context, fileOf(file), options);
}

async function writeTo(context: StoreContext, file: FileHandle, chunk: Uint8Array): Promise<void> {
  try {
    for (let at = 0; at < chunk.length; ) at += (await file.write(chunk, at)).bytesWritten;
  } catch (error) {
    throw isErrno(error) ? fileError(error, 'spool the archive in', context.database.layout.tmp) : error;
  }
}

/**
 * A pipe, or a device. Opening a pipe waits for its first writer in a thread of libuv: an abort lets that thread go,
 * by being such a writer for a moment. Reading polls, where the file can be polled.
 */
async function openStream(path: string, isPipe: boolean, signal: AbortSignal | undefined): Promise<Readable> {
  signal?.throwIfAborted();
  const letGo = (): void => {
    try {
      closeSync(openSync(path, constants.O_WRONLY | constants.O_NONBLOCK));
    } catch {
      // ENXIO: nobody waits any more.
    }
  };
  if (isPipe) signal?.addEventListener('abort', letGo, { once: true });
  let fd: number;
  try {
    fd = await promisify(openWith)(path, constants.O_RDONLY);
  } finally {
    signal?.removeEventListener('abort', letGo);
  }
  const { Socket } = await import('node:net'); // few archives are pipes, and it is much to load
  if (isPipe) return new Socket({ fd, readable: true, writable: false });
  return createReadStream(path, { fd });
}

function isErrno(error: unknown): boolean {
  return error instanceof Error && 'errno' in error && 'syscall' in error;
}

/** A file without a name: nothing of it is left, however this process ends. */
export async function temporaryFile(context: StoreContext): Promise<FileHandle> {
  const { tmp } = context.database.layout;
  const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;
  try {
    return await open(toBytes(tmp), constants.O_RDWR | O_TMPFILE, 0o600);
  } catch {
    // Not every filesystem has O_TMPFILE (open(2)): a name for a moment then.
  }
  const path = toBytes(joinBytes(tmp, randomUUID() as string as ByteString));
  try {
    const file = await open(path, 'wx+', 0o600);
    await unlink(path);
    return file;
  } catch (error) {
    throw fileError(error, 'spool the archive in', tmp);
  }
}

function closing(archive: ImageArchive, file: OpenFile): ImageArchive {
  return {
    images: (options) => archive.images(options),
    async [Symbol.asyncDispose]() {
      await archive[Symbol.asyncDispose]();
      await file.close();
    },
  };
}
