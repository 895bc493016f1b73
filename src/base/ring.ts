import { awake } from './awake.ts';
import { StorageError } from './errors.ts';

// Bytes between two threads: one producer, one consumer (and perhaps a second one that sees all of it too), slots of
// shared memory in a circle. Waiting is on two sequence
// words, one per side, that the other side bumps at every event; a side reads its word before it looks at the state, so
// no event can slip between look and sleep.

const READABLE = 0; // bumped by the producer: a slot was filled, or the end
const WRITABLE = 1; // bumped by the consumer: a slot was freed
const FILLED = 2;
const FREED = 3;
const STATE = 4;
const TAPPED = 5; // as FREED, of the second consumer
const HAS_TAP = 6;
const LENGTHS = 8; // one word per slot from here on

const OPEN = 0;
const ENDED = 1;
const ABORTED = 2;

/** The memory of a ring, as it is handed to another thread. */
export interface RingMemory {
  readonly words: SharedArrayBuffer;
  readonly bytes: SharedArrayBuffer;
  readonly slotBytes: number;
}

/** How a ring is made. */
export interface RingOptions {
  /** Default 32. */
  readonly slots?: number;
  /** Default 256 KiB. */
  readonly slotBytes?: number;
  /** true: a second reader (`tap`) gets the same bytes; slots are free once both have read them. */
  readonly tapped?: boolean;
}

export function ringMemory({ slots = 32, slotBytes = 256 * 1024, tapped = false }: RingOptions = {}): RingMemory {
  const words = shared((LENGTHS + slots) * 4);
  new Int32Array(words)[HAS_TAP] = tapped ? 1 : 0;
  return { words, bytes: shared(slots * slotBytes), slotBytes };
}

/** `resource-exhausted` where there is no such memory. */
function shared(bytes: number): SharedArrayBuffer {
  try {
    return new SharedArrayBuffer(bytes);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    const text = `Cannot pass bytes on: there is no memory for a ring of ${bytes} bytes`;
    throw new StorageError('resource-exhausted', text, { cause });
  }
}

/** Thrown on both sides once either gave up; the reason is with whoever gave up. */
function aborted(): StorageError {
  return new StorageError('canceled', 'Cannot pass bytes on: the other side of the ring gave up');
}

class Side {
  readonly words: Int32Array;
  readonly memory: RingMemory;
  readonly slots: number;

  constructor(memory: RingMemory) {
    this.memory = memory;
    this.words = new Int32Array(memory.words);
    this.slots = this.words.length - LENGTHS;
  }

  slot(index: number): Uint8Array {
    const { bytes, slotBytes } = this.memory;
    return new Uint8Array(bytes, (index % this.slots) * slotBytes, slotBytes);
  }

  bump(word: number): void {
    Atomics.add(this.words, word, 1);
    Atomics.notify(this.words, word);
  }
}

/** Whether somebody gave up. */
export function isAborted(memory: RingMemory): boolean {
  return Atomics.load(new Int32Array(memory.words), STATE) === ABORTED;
}

/** Ends a ring for all sides at once, from any thread: whoever waits or comes next is thrown out. */
export function abortRing(memory: RingMemory): void {
  const side = new Side(memory);
  Atomics.compareExchange(side.words, STATE, OPEN, ABORTED);
  Atomics.compareExchange(side.words, STATE, ENDED, ABORTED);
  side.bump(READABLE);
  side.bump(WRITABLE);
}

/** The filling side. Blocking calls are for job threads, `…Async` ones for the main thread. */
export class RingWriter {
  readonly #side: Side;
  #filled = 0;

  constructor(memory: RingMemory) {
    this.#side = new Side(memory);
    this.#filled = Atomics.load(this.#side.words, FILLED);
  }

  /** The next free slot, whole; waits until there is one. What is written is passed on by `commit`. */
  reserve(): Uint8Array {
    const { words, slots } = this.#side;
    for (;;) {
      const seen = Atomics.load(words, WRITABLE);
      if (this.#room(words, slots)) return this.#side.slot(this.#filled);
      Atomics.wait(words, WRITABLE, seen);
    }
  }

  /** As `reserve`, without blocking the thread. */
  async reserveAsync(): Promise<Uint8Array> {
    const { words, slots } = this.#side;
    for (;;) {
      const seen = Atomics.load(words, WRITABLE);
      if (this.#room(words, slots)) return this.#side.slot(this.#filled);
      const wait = Atomics.waitAsync(words, WRITABLE, seen);
      if (wait.async) await wait.value;
    }
  }

  #room(words: Int32Array, slots: number): boolean {
    if (Atomics.load(words, STATE) === ABORTED) throw aborted();
    const waits = (word: number): boolean => ((this.#filled - Atomics.load(words, word)) | 0) >= slots;
    return !waits(FREED) && !(words[HAS_TAP] === 1 && waits(TAPPED));
  }

  /** Passes on the first `length` bytes of what `reserve` gave. 0 passes nothing on. */
  commit(length: number): void {
    if (length === 0) return;
    const { words, slots } = this.#side;
    words[LENGTHS + (this.#filled % slots)] = length;
    this.#filled = (this.#filled + 1) >>> 0;
    Atomics.store(words, FILLED, this.#filled | 0);
    this.#side.bump(READABLE);
  }

  /** Copies `bytes` in, over as many slots as it takes. */
  write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const slot = this.reserve();
      const n = Math.min(slot.length, bytes.length - at);
      slot.set(bytes.subarray(at, at + n));
      this.commit(n);
      at += n;
    }
  }

  async writeAsync(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const slot = await this.reserveAsync();
      const n = Math.min(slot.length, bytes.length - at);
      slot.set(bytes.subarray(at, at + n));
      this.commit(n);
      at += n;
    }
  }

  /** Waits until all that was written is read and released. */
  drain(): void {
    const { words } = this.#side;
    for (;;) {
      const seen = Atomics.load(words, WRITABLE);
      if (Atomics.load(words, STATE) === ABORTED) throw aborted();
      if (Atomics.load(words, FREED) === (this.#filled | 0)) return;
      Atomics.wait(words, WRITABLE, seen);
    }
  }

  /** Nothing more will come. */
  end(): void {
    Atomics.compareExchange(this.#side.words, STATE, OPEN, ENDED);
    this.#side.bump(READABLE);
  }
}

/** The emptying side. */
export class RingReader {
  readonly #side: Side;
  readonly #word: number;
  #freed = 0;

  /** `tap`: the second reader of a ring that was made with one. */
  constructor(memory: RingMemory, tap?: 'tap') {
    this.#side = new Side(memory);
    this.#word = tap === undefined ? FREED : TAPPED;
    this.#freed = Atomics.load(this.#side.words, this.#word);
  }

  /** A view of the next bytes, valid until `release`; undefined at the end. Waits. */
  next(): Uint8Array | undefined {
    const { words } = this.#side;
    for (;;) {
      const seen = Atomics.load(words, READABLE);
      const found = this.#look(words);
      if (found !== 'nothing yet') return found;
      Atomics.wait(words, READABLE, seen);
    }
  }

  async nextAsync(): Promise<Uint8Array | undefined> {
    const { words } = this.#side;
    for (;;) {
      const seen = Atomics.load(words, READABLE);
      const found = this.#look(words);
      if (found !== 'nothing yet') return found;
      const wait = Atomics.waitAsync(words, READABLE, seen);
      if (wait.async) await awake(wait.value);
    }
  }

  #look(words: Int32Array): Uint8Array | undefined | 'nothing yet' {
    // The state is read before the count: an end that is seen has all its bytes counted.
    const state = Atomics.load(words, STATE);
    if (state === ABORTED) throw aborted();
    if (Atomics.load(words, FILLED) !== (this.#freed | 0)) {
      return this.#side.slot(this.#freed).subarray(0, words[LENGTHS + (this.#freed % this.#side.slots)]);
    }
    return state === ENDED ? undefined : 'nothing yet';
  }

  release(): void {
    this.#freed = (this.#freed + 1) >>> 0;
    Atomics.store(this.#side.words, this.#word, this.#freed | 0);
    this.#side.bump(WRITABLE);
  }

  /** The rest as a stream of copies, or of views that are valid until the next is asked for; stopping early aborts the ring. */
  async *stream(lend = false): AsyncGenerator<Uint8Array, void, undefined> {
    let whole = false;
    try {
      for (;;) {
        const view = await this.nextAsync();
        if (view === undefined) break;
        if (lend) {
          yield view;
          this.release();
          continue;
        }
        const copy = Buffer.from(view);
        this.release();
        yield copy;
      }
      whole = true;
    } finally {
      if (!whole) abortRing(this.#side.memory);
    }
  }
}
