import { setTimeout as sleep } from 'node:timers/promises';
import type { ByteString } from '../base/bytes.ts';
import { KeyedLock } from '../base/keyed-lock.ts';
import type { Abortable } from '../base/values.ts';
import { AT_FDCWD, close, fstat, O_CREAT, O_NOFOLLOW, O_RDWR, openat, unlinkat } from '../linux/inode.ts';
import { ENOENT } from '../linux/libc.ts';
import { LOCK_EX, LOCK_SH, tryFlock } from '../linux/sync.ts';

const PAUSE_MS_MAX = 50;

/**
 * Locks by name, among all processes that share `directory`: a file each, locked by flock(2), so that a dead process
 * holds nothing. Waiting polls, and the event loop goes on.
 */
export class Locks {
  readonly #directory: ByteString;
  readonly #here = new KeyedLock();

  constructor(directory: ByteString) {
    this.#directory = directory;
  }

  /** Runs `task` alone among those of `name`, in all processes. An abort ends the waiting; a running task sees to itself. */
  async alone<T>(name: ByteString, task: () => Promise<T>, { signal }: Abortable = {}): Promise<T> {
    signal?.throwIfAborted();
    let running = false;
    // First the queue of this process: it is fair, and two of its own never poll for each other.
    const turn = this.#here.run(name, async () => {
      signal?.throwIfAborted();
      const fd = await this.#acquire(name, LOCK_EX, signal);
      running = true;
      try {
        signal?.throwIfAborted();
        return await task();
      } finally {
        this.#free(name, fd);
      }
    });
    if (signal === undefined) return turn;
    const aborted = Promise.withResolvers<never>();
    const onAbort = (): void => {
      if (!running) aborted.reject(signal.reason);
    };
    signal.addEventListener('abort', onAbort);
    try {
      return await Promise.race([turn, aborted.promise]);
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  /** Runs `task` beside others that share `name`, never beside one that has it alone. */
  async shared<T>(name: ByteString, task: () => Promise<T>, { signal }: Abortable = {}): Promise<T> {
    const fd = await this.#acquire(name, LOCK_SH, signal);
    try {
      return await task();
    } finally {
      close(fd);
    }
  }

  /** Runs `first` alone if nobody has `name` now, else not at all; then `task` beside others. */
  async sharedAfter(name: ByteString, first: () => Promise<void>, task: () => Promise<void>): Promise<void> {
    const fd = this.#try(name, LOCK_EX);
    if (fd === undefined) return this.shared(name, task);
    try {
      await first();
      if (tryFlock(fd, LOCK_SH)) return await task();
    } finally {
      close(fd);
    }
    await this.shared(name, task); // somebody was faster
  }

  /** Runs `task` alone if nobody has `name` now, else not at all; answers whether it ran. */
  async ifFree(name: ByteString, task: () => Promise<void>): Promise<boolean> {
    const fd = this.#try(name, LOCK_EX);
    if (fd === undefined) return false;
    try {
      await task();
      return true;
    } finally {
      this.#free(name, fd);
    }
  }

  #free(name: ByteString, fd: number): void {
    try {
      unlinkat(AT_FDCWD, this.#path(name), 0, ENOENT);
    } catch {
      // The file stays, free for the next one. To keep the lock instead would stop everybody for ever.
    }
    close(fd);
  }

  #path(name: ByteString): ByteString {
    return `${this.#directory}/${name}` as ByteString;
  }

  async #acquire(name: ByteString, kind: typeof LOCK_EX | typeof LOCK_SH, signal?: AbortSignal): Promise<number> {
    for (let pause = 1; ; pause = Math.min(pause * 2, PAUSE_MS_MAX)) {
      signal?.throwIfAborted();
      const fd = this.#try(name, kind);
      if (fd !== undefined) return fd;
      await sleep(pause); // no signal here: its AbortError would hide signal.reason
    }
  }

  /** A descriptor with the lock, or undefined. Whoever has a lock alone unlinks its file, so an unlinked one is void. */
  #try(name: ByteString, kind: typeof LOCK_EX | typeof LOCK_SH): number | undefined {
    for (;;) {
      const fd = openat(AT_FDCWD, this.#path(name), O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
      if (!tryFlock(fd, kind)) {
        close(fd);
        return undefined;
      }
      if (fstat(fd).nlink > 0) return fd;
      close(fd);
    }
  }
}
