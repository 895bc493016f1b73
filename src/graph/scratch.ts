import { mkdtempSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ByteString, fromText } from '../base/bytes.ts';
import { AT_FDCWD, close, fstat, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, openat } from '../linux/inode.ts';
import { EACCES, ELOOP, ENOENT, ENOTDIR } from '../linux/libc.ts';
import { LOCK_EX, tryFlock } from '../linux/sync.ts';

const PREFIX = 'layerstore-diff-';
/** One is locked as soon as it is made; a younger one may not have come to it yet. */
const UNLOCKED_NS_MAX = 10_000_000_000n;

/** An empty directory to mount on. */
export interface ScratchDirectory extends Disposable {
  readonly path: ByteString;
}

/** A new one in the system's directory for such. What killed processes left of theirs goes on the way. */
export function scratchDirectory(): ScratchDirectory {
  const all = tmpdir();
  for (const name of readdirSync(all)) if (name.startsWith(PREFIX)) removeLeft(join(all, name));
  const path = mkdtempSync(join(all, PREFIX));
  const remove = (): void => rmSync(path, { recursive: true, force: true });
  try {
    const lock = openat(AT_FDCWD, fromText(path), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    tryFlock(lock, LOCK_EX);
    return {
      path: fromText(path),
      [Symbol.dispose]() {
        try {
          remove();
        } finally {
          close(lock);
        }
      },
    };
  } catch (error) {
    remove();
    throw error;
  }
}

function removeLeft(path: string): void {
  const fd = openat(AT_FDCWD, fromText(path), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, EACCES, ELOOP, ENOENT, ENOTDIR);
  if (fd < 0) return;
  try {
    const stat = fstat(fd);
    const age = BigInt(Date.now()) * 1_000_000n - stat.mtimeNs;
    if (stat.uid === process.geteuid?.() && age > UNLOCKED_NS_MAX && tryFlock(fd, LOCK_EX)) rmdirSync(path);
  } catch {
    // it is not empty, so it is none of ours, or somebody else was faster
  } finally {
    close(fd);
  }
}
