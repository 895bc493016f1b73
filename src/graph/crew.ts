import type { Job } from '../base/pool.ts';
import { abortGzip, type GzipMemory, gzipMemory, resetGzip } from '../codec/gzip.ts';
import type { Compressing } from './jobs/out.ts';

/** How a layer's tar is compressed where it is written. */
export interface CompressOptions {
  /** gzip: one member, level 6. zstd: one frame, level 3. Default: none. */
  readonly compress?: 'none' | 'gzip' | 'zstd';
  /** true: gzip in one thread, where the tar is small or others have work for the second one. The same bytes. */
  readonly oneThread?: boolean;
}

/** How a job compresses what it writes, and the jobs that help it. Disposal when all have ended. */
export interface Crew extends Disposable {
  readonly compress: Compressing | undefined;
  readonly helpers: readonly Job[];
  /** Ends all of them, where one failed. */
  giveUp(): void;
}

/** Makes crews of up to `width` threads. Memory is used again: shared memory weighs nothing to the collector, and stays. */
export class Crews {
  readonly #width: () => number;
  #spare: GzipMemory | undefined;

  constructor(width: () => number) {
    this.#width = width;
  }

  /** Nobody has to be disposed of before the next one is made. */
  crew({ compress = 'none', oneThread = false }: CompressOptions): Crew {
    const none = { helpers: [], giveUp() {}, [Symbol.dispose]() {} };
    if (compress === 'none') return { ...none, compress: undefined };
    if (compress === 'zstd') return { ...none, compress: { kind: 'zstd', workers: this.#width() } };
    if (oneThread || this.#width() === 1) return { ...none, compress: { kind: 'gzip' } };
    const memory = this.#spare ?? gzipMemory(this.#width());
    this.#spare = undefined;
    return {
      compress: { kind: 'gzip', memory },
      helpers: Array.from({ length: this.#width() - 1 }, () => ({ name: 'helpGzip', request: memory })),
      giveUp: () => abortGzip(memory),
      [Symbol.dispose]: () => {
        resetGzip(memory);
        this.#spare = memory;
      },
    };
  }
}
