import { constants, crc32, createDeflateRaw } from 'node:zlib';
import { StorageError } from '../base/errors.ts';
import { SyncStream } from './sync-stream.ts';

// One gzip member by several threads, in pigz's scheme: blocks of 1 MiB are deflated each by itself, with the 32 KiB
// before it as dictionary, and end at a byte (sync flush); the last one is finished. Header and trailer are ours. The
// bytes are the same whoever deflates which block. The thread that fills also deflates where it would wait, so it needs
// no other; helpers only make it faster. Waiting is on two sequence words, as in base/ring.ts.

/** Of the input, for each block but the last. */
export const GZIP_BLOCK_BYTES: number = 1 << 20;
/** zlib's window: what a block may refer back to. */
const DICTIONARY_BYTES = 32 * 1024;
/** Stored blocks of zlib cost 5 bytes in 16 KiB at most, so that output never fills this. */
const ROOM_BYTES: number = GZIP_BLOCK_BYTES + 16 * 1024;
const SLOT_BYTES = DICTIONARY_BYTES + GZIP_BLOCK_BYTES + ROOM_BYTES;
const LEVEL = 6;

const PUBLISHED = 0; // bumped when a block was filled, or there will be none: what helpers wait for
const DEFLATED = 1; // bumped when a helper is done with a block: what the filling thread waits for
const STATE = 2;
const FILLED = 3;
const CLAIMED = 4;
const SLOTS = 8; // four words per slot from here on: input bytes, whether last, output bytes, 1 + number of the block that is done

const OPEN = 0;
const ENDED = 1;
const ABORTED = 2;

/** The memory of one stream at a time; shared where other threads help. */
export interface GzipMemory {
  readonly words: ArrayBufferLike;
  readonly bytes: ArrayBufferLike;
}

/** Memory for as many threads: 2 MiB for each, and for two more blocks on their way in and out. For one thread, not shared. */
export function gzipMemory(threads = 1): GzipMemory {
  const slots = threads === 1 ? 1 : threads + 2;
  const make = (bytes: number): ArrayBufferLike =>
    threads === 1 ? new ArrayBuffer(bytes) : new SharedArrayBuffer(bytes);
  return { words: make((SLOTS + slots * 4) * 4), bytes: make(slots * SLOT_BYTES) };
}

/** Makes memory whose stream has ended, for all its threads, fit for the next one. */
export function resetGzip(memory: GzipMemory): void {
  new Int32Array(memory.words).fill(0);
}

/** Ends a stream for all its threads at once, from any thread: whoever waits or comes next is thrown out. */
export function abortGzip(memory: GzipMemory): void {
  const blocks = new Blocks(memory);
  Atomics.store(blocks.words, STATE, ABORTED);
  blocks.bump(PUBLISHED);
  blocks.bump(DEFLATED);
}

/** Deflates blocks as they come, until the stream has ended. For job threads: it waits. */
export function helpGzip(memory: GzipMemory): void {
  const blocks = new Blocks(memory);
  for (;;) {
    const seen = Atomics.load(blocks.words, PUBLISHED);
    const state = blocks.state();
    if (blocks.deflateNext()) blocks.bump(DEFLATED);
    else if (state === ENDED) return;
    else Atomics.wait(blocks.words, PUBLISHED, seen);
  }
}

class Blocks {
  readonly words: Int32Array;
  readonly slots: number;
  readonly #bytes: ArrayBufferLike;

  constructor({ words, bytes }: GzipMemory) {
    this.words = new Int32Array(words);
    this.#bytes = bytes;
    this.slots = (this.words.length - SLOTS) / 4;
  }

  /** Throws once the stream was given up. */
  state(): number {
    const state = Atomics.load(this.words, STATE);
    if (state !== ABORTED) return state;
    throw new StorageError('canceled', 'Cannot go on compressing: another thread gave up');
  }

  bump(word: number): void {
    Atomics.add(this.words, word, 1);
    Atomics.notify(this.words, word);
  }

  /** Index of the first word of a block's slot. */
  wordsOf(block: number): number {
    return SLOTS + (block % this.slots) * 4;
  }

  #view(block: number, from: number, length: number): Uint8Array {
    return new Uint8Array(this.#bytes, (block % this.slots) * SLOT_BYTES + from, length);
  }

  dictionary(block: number): Uint8Array {
    return this.#view(block, 0, DICTIONARY_BYTES);
  }

  input(block: number, length: number = GZIP_BLOCK_BYTES): Uint8Array {
    return this.#view(block, DICTIONARY_BYTES, length);
  }

  output(block: number, length: number = ROOM_BYTES): Uint8Array {
    return this.#view(block, DICTIONARY_BYTES + GZIP_BLOCK_BYTES, length);
  }

  /** Deflates the first block that nobody has taken; false where there is none. */
  deflateNext(): boolean {
    const { words } = this;
    for (;;) {
      const block = Atomics.load(words, CLAIMED);
      if (block === Atomics.load(words, FILLED)) return false;
      if (Atomics.compareExchange(words, CLAIMED, block, block + 1) !== block) continue;
      const at = this.wordsOf(block);
      const input = this.input(block, words[at]);
      words[at + 2] = deflateBlock(
        block === 0 ? undefined : this.dictionary(block),
        input,
        words[at + 1] === 1,
        this.output(block),
      );
      Atomics.store(words, at + 3, block + 1);
      return true;
    }
  }
}

/** Answers how many bytes it put into `room`. */
function deflateBlock(dictionary: Uint8Array | undefined, input: Uint8Array, last: boolean, room: Uint8Array): number {
  const options = { chunkSize: 64, level: LEVEL, ...(dictionary === undefined ? {} : { dictionary }) };
  const stream = new SyncStream(createDeflateRaw(options));
  try {
    const failure = stream.step(last ? constants.Z_FINISH : constants.Z_SYNC_FLUSH, input, 0, room);
    const { consumed, produced } = stream;
    if (failure === undefined && consumed === input.length && produced < room.length) return produced;
    throw new StorageError('internal', `Cannot compress with gzip: ${failure ?? `${produced} bytes of output`}`);
  } finally {
    stream.close();
  }
}

/** Without name, mtime 0, system 255: unknown (RFC 1952, 2.3.1). */
const HEADER: readonly number[] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/** The filling side, block by block; see `Pieces`. What `out` gets is borrowed, and in order. */
export class GzipPieces {
  readonly #blocks: Blocks;
  readonly #out: (bytes: Uint8Array) => void;
  #filled = 0;
  #written = 0;
  #crc = 0;
  #bytes = 0;

  constructor(memory: GzipMemory, out: (bytes: Uint8Array) => void) {
    this.#blocks = new Blocks(memory);
    this.#out = out;
  }

  next(): Uint8Array {
    const block = this.#filled;
    this.#waitUntil(() => block - this.#written < this.#blocks.slots);
    // Its own slot, where there is one only: the dictionary lies before the block.
    if (block > 0) this.#blocks.dictionary(block).set(this.#blocks.input(block - 1).subarray(-DICTIONARY_BYTES));
    return this.#blocks.input(block);
  }

  pack(length: number, last: boolean): void {
    const { words } = this.#blocks;
    this.#crc = crc32(this.#blocks.input(this.#filled, length), this.#crc);
    this.#bytes += length;
    const at = this.#blocks.wordsOf(this.#filled);
    words[at] = length;
    words[at + 1] = last ? 1 : 0;
    this.#filled++;
    Atomics.store(words, FILLED, this.#filled);
    if (last) Atomics.compareExchange(words, STATE, OPEN, ENDED);
    this.#blocks.bump(PUBLISHED);
    if (!last) return;
    this.#waitUntil(() => this.#written === this.#filled);
    const trailer = Buffer.alloc(8);
    trailer.writeUInt32LE(this.#crc, 0);
    trailer.writeUInt32LE(this.#bytes % 2 ** 32, 4);
    this.#out(trailer);
  }

  close(): void {}

  /** Writes what is done, and deflates a block rather than wait for others to do it. */
  #waitUntil(holds: () => boolean): void {
    const { words } = this.#blocks;
    for (;;) {
      const seen = Atomics.load(words, DEFLATED);
      this.#blocks.state();
      this.#writeDone();
      if (holds()) return;
      if (!this.#blocks.deflateNext()) Atomics.wait(words, DEFLATED, seen);
    }
  }

  #writeDone(): void {
    const { words } = this.#blocks;
    while (this.#written < this.#filled) {
      const at = this.#blocks.wordsOf(this.#written);
      if (Atomics.load(words, at + 3) !== this.#written + 1) return;
      if (this.#written === 0) this.#out(Uint8Array.from(HEADER));
      this.#out(this.#blocks.output(this.#written, words[at + 2]));
      this.#written++;
    }
  }
}
