import { type ByteString, joinBytes } from '../base/bytes.ts';
import { type Digest, hexOf } from '../base/digest.ts';
import type { Abortable } from '../base/values.ts';
import { ensureDirectory } from '../fs/atomic.ts';
import { Locks } from '../mount/locks.ts';

/** Hexadecimal digits of a chain id that choose its lock: files that kills leave are few, and so are false meetings. */
const DIGITS = 3;

/** Who unpacks a layer, of all who want it now: the first; the others wait and find it there. */
export class Turns {
  readonly #run: ByteString;
  #locks: Locks | undefined;

  /** `run`: the store's directory of this boot. */
  constructor(run: ByteString) {
    this.#run = run;
  }

  /** Runs `task` while nobody else, in any process, has a turn with one of `chainIds`. */
  take<T>(chainIds: readonly Digest[], task: () => Promise<T>, options: Abortable = {}): Promise<T> {
    const names = new Set(chainIds.map((chainId) => `.load-${hexOf(chainId).slice(0, DIGITS)}` as ByteString));
    // In one order for all, so that no two wait for each other.
    return this.#next([...names].sort(), task, options);
  }

  #next<T>(names: readonly ByteString[], task: () => Promise<T>, options: Abortable): Promise<T> {
    const [name, ...others] = names;
    if (name === undefined) return task();
    return this.#open().alone(name, () => this.#next(others, task, options), options);
  }

  #open(): Locks {
    if (this.#locks === undefined) {
      const directory = joinBytes(this.#run, 'locks' as ByteString);
      ensureDirectory(directory, 0o700, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
      this.#locks = new Locks(directory);
    }
    return this.#locks;
  }
}
