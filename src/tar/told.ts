import type { TarEntry, TarSink } from './types.ts';

/** An entry of a piece of a tar: its payload begins after so many bytes of that piece. */
export interface ToldEntry {
  readonly at: number;
  readonly entry: TarEntry;
}

/**
 * Tells a sink what the lexer would of a tar that somebody is making, and whose entries he tells, piece by piece. None
 * has a sparse map. Law: but for where views end, a sink hears the same of the pieces as from the lexer.
 */
export class ToldTar {
  readonly #sink: TarSink;
  /** Of the payload of the last entry, which has not ended. */
  #left: number | undefined;

  constructor(sink: TarSink) {
    this.#sink = sink;
  }

  /** The next bytes, and the entries whose headers end in them, in order. */
  write(piece: Uint8Array, entries: readonly ToldEntry[]): void {
    let done = this.#payload(piece, 0);
    for (const { at, entry } of entries) {
      if (at > done) this.#sink.raw(piece.subarray(done, at));
      this.#sink.entry(entry);
      this.#left = entry.sizeBytes;
      done = this.#payload(piece, at);
    }
    if (done < piece.length) this.#sink.raw(piece.subarray(done));
  }

  /** What begins at `at` of the payload; answers where that ends. */
  #payload(piece: Uint8Array, at: number): number {
    if (this.#left === undefined) return at;
    const end = Math.min(piece.length, at + this.#left);
    this.#left -= end - at;
    if (end > at) this.#sink.data(piece.subarray(at, end));
    if (this.#left > 0) return end;
    this.#left = undefined;
    this.#sink.end();
    return end;
  }
}
