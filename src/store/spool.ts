import { randomUUID } from 'node:crypto';
import { closeSync, constants, createReadStream, fstatSync, openSync, statSync } from 'node:fs';
import { type FileHandle, open, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { spoolBlob } from '../graph/blobs.ts';
import { openArchive, outerCompression } from '../transport/open-archive.ts';
import type { ImageArchive } from '../transport/source.ts';
import type { StoreContext } from './context.ts';
import { fileError } from './layout.ts';
import type { Bytes, Progressing } from './types.ts';

/** An archive that can be read at any place, from whatever the caller has: pipes and compressed files go to disk first. */
export async function openSource(context: StoreContext, source: Bytes, options: Progressing): Promise<ImageArchive> {
  if (typeof source !== 'string') return openSpooled(context, source as AsyncIterable<Uint8Array>, options);
  let stat: ReturnType<typeof statSync>;
  try {
    stat = statSync(source);
  } catch (error) {
    throw fileError(error, 'load', source);
  }
  if (stat?.isDirectory()) return openArchive(source);
  if (!stat?.isFile()) return openSpooled(context, createReadStream(source), options);
  let fd: number;
  try {
    fd = openSync(source, constants.O_RDONLY);
  } catch (error) {
    throw fileError(error, 'load', source);
  }
  return openFile(context, fd, () => closeSync(fd), options);
}

/** The descriptor's archive; `close` is called at its end, or when it cannot be opened. */
async function openFile(
  context: StoreContext,
  fd: number,
  close: () => void | Promise<void>,
  options: Progressing,
): Promise<ImageArchive> {
  try {
    const length = fstatSync(fd).size;
    if (length === 0 || outerCompression(fd) === 'none') {
      return closing(await openArchive(fd), close);
    }
    const plain = await temporaryFile(context);
    try {
      await spoolBlob(context.threads, { fd, offset: 0, length }, plain.fd, {
        signal: options.signal,
        onProgress: ([bytesDone]) =>
          options.onProgress?.({ step: 'read', bytesDone: bytesDone ?? 0, bytesTotal: length }),
      });
      await close();
      return closing(await openArchive(plain.fd), () => plain.close());
    } catch (error) {
      await plain.close();
      throw error;
    }
  } catch (error) {
    await close();
    throw error;
  }
}

async function openSpooled(
  context: StoreContext,
  bytes: AsyncIterable<Uint8Array>,
  options: Progressing,
): Promise<ImageArchive> {
  const file = await temporaryFile(context);
  try {
    let bytesDone = 0;
    let told = 0;
    for await (const chunk of bytes) {
      options.signal?.throwIfAborted();
      for (let at = 0; at < chunk.length; ) at += (await file.write(chunk, at)).bytesWritten;
      bytesDone += chunk.length;
      const now = Date.now();
      if (now - told < 100) continue;
      told = now;
      options.onProgress?.({ step: 'read', bytesDone });
    }
    options.onProgress?.({ step: 'read', bytesDone });
  } catch (error) {
    await file.close();
    throw isErrno(error) ? fileError(error, 'spool the archive in', context.database.layout.tmp) : error;
  }
  return openFile(context, file.fd, () => file.close(), options);
}

function isErrno(error: unknown): boolean {
  return error instanceof Error && 'errno' in error && 'syscall' in error;
}

/** A file without a name: nothing of it is left, however this process ends. */
async function temporaryFile(context: StoreContext): Promise<FileHandle> {
  const { tmp } = context.database.layout;
  const O_TMPFILE = 0o20000000 | constants.O_DIRECTORY;
  try {
    return await open(tmp, constants.O_RDWR | O_TMPFILE, 0o600);
  } catch {
    // Not every filesystem has O_TMPFILE (open(2)): a name for a moment then.
  }
  const path = join(tmp, randomUUID());
  try {
    const file = await open(path, 'wx+', 0o600);
    await unlink(path);
    return file;
  } catch (error) {
    throw fileError(error, 'spool the archive in', tmp);
  }
}

function closing(archive: ImageArchive, close: () => void | Promise<void>): ImageArchive {
  return {
    images: (options) => archive.images(options),
    async [Symbol.asyncDispose]() {
      await archive[Symbol.asyncDispose]();
      await close();
    },
  };
}
