import { readdirSync } from 'node:fs';
import { type ByteString, toBytes } from '../base/bytes.ts';
import { AT_FDCWD, close, O_CREAT, O_EXCL, O_NOFOLLOW, O_RDWR, openat, renameat, unlinkat } from '../linux/inode.ts';
import { ENOENT } from '../linux/libc.ts';
import { randomUUID } from '../linux/random.ts';
import { LOCK_EX, LOCK_SH, tryFlock } from '../linux/sync.ts';

/**
 * An open database as a maker of things: its name, which stands beside what it announced, and a locked file of that
 * name as its sign of life. A lock, not a pid: it tells the truth between pid namespaces, no number is used twice, and
 * the kernel takes it away with the process.
 */
export interface Session {
  readonly name: string;
  /** From now on what it was making is anybody's to remove. */
  end(): void;
}

/** Begins a session and removes the files of dead ones; `directory` is Layout.sessions. */
export function beginSession(directory: ByteString): Session {
  for (const file of readdirSync(toBytes(directory))) isAlive(directory, file);
  for (;;) {
    const name = randomUUID();
    const draft = `${directory}/.${name}` as ByteString;
    const path = `${directory}/${name}` as ByteString;
    const fd = openat(AT_FDCWD, draft, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    // Locked before it has its name, so that nobody finds it dead; somebody who sweeps may be faster at either step.
    if (tryFlock(fd, LOCK_EX) && renameat(AT_FDCWD, draft, AT_FDCWD, path, ENOENT) === 0) {
      return {
        name,
        end() {
          try {
            unlinkat(AT_FDCWD, path, 0, ENOENT);
          } catch {
            // A file that stays is nobody's without its lock: the next session removes it.
          } finally {
            close(fd);
          }
        },
      };
    }
    close(fd);
  }
}

/** Those of `sessions` whose process or handle is gone, in this boot or another. Dead once is dead for ever. */
export function deadAmong(directory: ByteString, sessions: readonly string[]): string[] {
  return sessions.filter((name) => !isAlive(directory, name));
}

/** Whether a session's file is there and locked; one that nobody locks is removed. */
function isAlive(directory: ByteString, name: string): boolean {
  const path = `${directory}/${name}` as ByteString;
  const fd = openat(AT_FDCWD, path, O_RDWR | O_NOFOLLOW, 0, ENOENT);
  if (fd < 0) return false;
  // Shared, so that two who look at once do not take each other for the session.
  const alive = !tryFlock(fd, LOCK_SH);
  if (!alive) unlinkat(AT_FDCWD, path, 0, ENOENT);
  close(fd);
  return alive;
}
