import { createReadStream } from 'node:fs';
import { type FileHandle, mkdtemp, open, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fromSystem } from '../base/errors.ts';
import { until } from '../base/until.ts';
import type { Abortable, ByteStream, Bytes } from '../base/values.ts';
import { absolute } from '../base/working-directory.ts';
import { unpacked } from './layer-streams.ts';
import { openArchive, outerCompression } from './open-archive.ts';
import type { ImageArchive } from './source.ts';

/**
 * Opens the layout directory or archive at a path, or the archive that a stream brings, plain, gzip or zstd. What cannot
 * be read at any place (a stream, a pipe, what is compressed) goes into a temporary file first, gone at disposal. Errors:
 * as `openArchive`; `not-found` and `permission-denied` for the path.
 */
export async function openAny(source: Bytes, { signal }: Abortable = {}): Promise<ImageArchive> {
  signal?.throwIfAborted();
  if (typeof source !== 'string') return spooled(source as ByteStream, signal);
  const path = absolute(source);
  try {
    const found = await stat(path);
    if (found.isDirectory() || (found.isFile() && (await isPlain(path)))) return await openArchive(path);
    return await spooled(createReadStream(path), signal);
  } catch (error) {
    throw fromSystem(error, `Cannot open ${JSON.stringify(source)}`);
  }
}

async function isPlain(path: string): Promise<boolean> {
  await using file = await open(path);
  return outerCompression(file.fd) === 'none';
}

async function spooled(source: ByteStream, signal: AbortSignal | undefined): Promise<ImageArchive> {
  const directory = await mkdtemp(join(tmpdir(), 'layerstore-'));
  // Where an open file can lose its name it does so at once, and nothing is left however this process ends.
  const clear = (): Promise<void> => rm(directory, { recursive: true, force: true });
  let file: FileHandle | undefined;
  const close = async (): Promise<void> => {
    await file?.close();
    await clear();
  };
  try {
    file = await open(join(directory, 'archive'), 'wx+', 0o600);
    await clear().catch(() => {}); // elsewhere at disposal
    for await (const chunk of unpacked(signal === undefined ? source : until(source, signal))) {
      for (let at = 0; at < chunk.length; ) at += (await file.write(chunk, at)).bytesWritten;
    }
    const archive = await openArchive(file.fd);
    return {
      images: (options) => archive.images(options),
      async [Symbol.asyncDispose]() {
        await archive[Symbol.asyncDispose]();
        await close();
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}
