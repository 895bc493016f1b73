import { mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { StorageError } from '../base/errors.ts';
import type { Abortable } from '../base/values.ts';
import type { ArchiveMember } from './write-archive.ts';

/** How a directory is written. */
export interface WriteDirectoryOptions extends Abortable {
  /** Takes the directory, which exists, for the time of writing, or refuses. Default: it must be empty. */
  readonly take?: (path: string) => Promise<AsyncDisposable>;
}

/**
 * Writes `members` (where they take time: asked for when the directory is) into the directory `path`, which is empty or
 * absent; on failure it is left as it was. Failures of
 * `node:fs` are thrown as they are.
 */
export async function writeDirectory(
  path: string,
  members: readonly ArchiveMember[] | (() => Promise<readonly ArchiveMember[]>),
  { signal, take = takeEmpty }: WriteDirectoryOptions = {},
): Promise<void> {
  const made = await mkdir(path, { recursive: true });
  await using _ = await take(path);
  try {
    for (const member of typeof members === 'function' ? await members() : members) {
      signal?.throwIfAborted();
      const target = join(path, member.name);
      if (member.type === 'directory') {
        await mkdir(target, { recursive: true });
        continue;
      }
      await using file = await open(target, 'wx', 0o644);
      for await (const chunk of member.content instanceof Uint8Array ? [member.content] : member.content) {
        for (let at = 0; at < chunk.length; ) at += (await file.write(chunk, at)).bytesWritten;
      }
      await file.sync();
    }
  } catch (error) {
    for (const name of await readdir(path)) await rm(join(path, name), { recursive: true, force: true });
    if (made !== undefined) await rm(made, { recursive: true, force: true });
    throw error;
  }
}

async function takeEmpty(path: string): Promise<AsyncDisposable> {
  if ((await readdir(path)).length > 0) throw notEmpty(path);
  return { async [Symbol.asyncDispose]() {} };
}

export function notEmpty(path: string): StorageError {
  return new StorageError('already-exists', `Cannot save to ${JSON.stringify(path)}: the directory is not empty`, {
    path,
  });
}
