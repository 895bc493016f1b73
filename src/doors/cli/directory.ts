import { mkdir, open, rmdir } from 'node:fs/promises';
import { type ByteString, toBytes, toTextExact } from '../../base/bytes.ts';
import { explained } from './errors.ts';

/**
 * Runs `write` with a path to `directory` that is text: its own, or that of a descriptor, for which the directory is made
 * where it is absent (and taken away again where `write` fails).
 */
export async function withTextPath(directory: ByteString, write: (path: string) => Promise<void>): Promise<void> {
  const text = toTextExact(directory);
  if (text !== undefined) return write(text);
  const path = toBytes(directory);
  try {
    const made = (await mkdir(path, { recursive: true })) !== undefined;
    await using handle = await open(path, 'r');
    await write(`/proc/self/fd/${handle.fd}`).catch(async (error: unknown) => {
      if (made) await rmdir(path);
      throw error;
    });
  } catch (error) {
    throw explained(error, 'write', directory);
  }
}
