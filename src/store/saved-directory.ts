import { open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { StorageError } from '../base/errors.ts';
import { LOCK_EX, tryFlock } from '../linux/sync.ts';
import { notEmpty } from '../transport/write-directory.ts';

/** In a directory that is being written: whose lock is free, that is what a killed process left. */
const MARKER = '.layerstore-saving';
/** All that a layout has on top. */
const OURS: ReadonlySet<string> = new Set([MARKER, 'blobs', 'index.json', 'oci-layout']);

/**
 * Takes an empty directory, or what a killed `save` left of one, which is emptied; it is ours until disposed of.
 * `already-exists`: there is something else in it; `busy`: another process is writing it.
 */
export async function takeDirectory(path: string): Promise<AsyncDisposable> {
  const names = await readdir(path);
  if (names.length > 0 && !(names.includes(MARKER) && names.every((name) => OURS.has(name)))) throw notEmpty(path);
  const marker = join(path, MARKER);
  const file = await open(marker, 'a', 0o600);
  try {
    if (!tryFlock(file.fd, LOCK_EX)) {
      throw new StorageError('busy', `Cannot save to ${JSON.stringify(path)}: another process is saving to it`, {
        path,
      });
    }
    const there = await stat(marker).catch(() => undefined);
    if (there?.ino !== (await file.stat()).ino) throw notEmpty(path); // who had it is done
    for (const name of names) if (name !== MARKER) await rm(join(path, name), { recursive: true, force: true });
  } catch (error) {
    await file.close();
    throw error;
  }
  return {
    async [Symbol.asyncDispose]() {
      await rm(marker, { force: true });
      await file.close();
    },
  };
}
