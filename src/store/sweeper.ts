import type { Log } from '../base/log.ts';
import type { LayerDriver, SweepOptions } from '../driver/driver.ts';

/**
 * Deletes what removals of a store only set aside: a thread of this process in the background, or whoever the caller
 * has for it. What is not deleted when this ends is aside for the next one.
 */
export class Sweeper implements AsyncDisposable {
  readonly #driver: LayerDriver;
  readonly #log: Log;
  readonly #elsewhere: (() => void | Promise<void>) | undefined;
  readonly #stop = new AbortController();
  #running: Promise<void> | undefined;
  #owed = false;

  /** `elsewhere`: called at the end, once, where something is left to delete; then nothing is deleted here. */
  constructor(driver: LayerDriver, log: Log, elsewhere?: () => void | Promise<void>) {
    this.#driver = driver;
    this.#log = log;
    this.#elsewhere = elsewhere;
  }

  /** Something was set aside. */
  kick(): void {
    this.#owed = true;
    if (this.#elsewhere !== undefined || this.#stop.signal.aborted) return;
    this.#running ??= this.#sweep().finally(() => {
      this.#running = undefined;
    });
  }

  /** Something was set aside that may be deleted at once: as much of it as there is time for. */
  async begin(ms: number): Promise<void> {
    if (this.#stop.signal.aborted) return;
    const enough = AbortSignal.timeout(ms);
    try {
      await this.#driver.sweep({ signal: AbortSignal.any([enough, this.#stop.signal]), others: 'leave' });
    } catch (error) {
      if (!enough.aborted && !this.#stop.signal.aborted) throw error;
      this.kick();
    }
  }

  async #sweep(): Promise<void> {
    try {
      while (this.#owed) {
        this.#owed = false;
        await this.#driver.sweep({ signal: this.#stop.signal, others: 'leave' });
      }
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      this.#log.warn(
        `Removed layers still take space, gc deletes them: ${error instanceof Error ? error.message : error}`,
      );
    }
  }

  /** Deletes all that is aside; what others are deleting is waited for, or left to them. */
  async finish(options: SweepOptions = {}): Promise<void> {
    try {
      await this.#driver.sweep(options);
    } finally {
      this.#owed = false; // what could not be deleted now is found by the next who opens
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#owed) await this.#elsewhere?.();
    this.#stop.abort();
    await this.#running;
  }
}
