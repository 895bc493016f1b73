import { StorageError } from '../base/errors.ts';
import { inProcess } from './libc.ts';

// zstd by the library that Node has in itself, called as it is: node:zlib, which brings the same code, is 19 modules with
// Node's streams, 5 ms of every thread that loads it. See docs/decisions/26-zstd-without-node-zlib.md.

const FUNCTIONS = {
  create: 'void *ZSTD_createCCtx()',
  free: 'size_t ZSTD_freeCCtx(void *)',
  set: 'size_t ZSTD_CCtx_setParameter(void *, int, int)',
  step: 'size_t ZSTD_compressStream2_simpleArgs(void *, uint8_t *, size_t, uint8_t *, uint8_t *, size_t, uint8_t *, int)',
} as const;

/** size_t: beyond 2^53 as a bigint. */
type Size = number | bigint;
type Functions = Readonly<Record<keyof typeof FUNCTIONS, (...args: readonly unknown[]) => Size>>;

// zstd.h and zstd_errors.h
const E_END = 2;
const C_COMPRESSION_LEVEL = 100;
const C_CHECKSUM_FLAG = 201;
const ERROR_MEMORY_ALLOCATION = 64;
const ERRORS = 120;

const TEXT = 'layerstore';
/** Its frame: a header, the text as it is, its checksum. */
const TEXT_FRAME = '28b52ffd240a5100006c6179657273746f726508776ced';

/** A frame on its way out, with content checksum, a call at a time. One that is not closed keeps its memory. */
export class ZstdStream {
  /** Bytes that the last step took from its input. */
  consumed = 0;
  /** Bytes that the last step put at the start of its output. */
  produced = 0;
  readonly #by: Functions;
  #context: Size;
  readonly #positions: readonly [output: Buffer, input: Buffer] = [Buffer.alloc(8), Buffer.alloc(8)];

  constructor(by: Functions, level: number) {
    this.#by = by;
    this.#context = by.create();
    if (!this.#context) throw noMemory();
    by.set(this.#context, C_COMPRESSION_LEVEL, level);
    by.set(this.#context, C_CHECKSUM_FLAG, 1);
  }

  /**
   * One call over `input` from `start` on into `output`; `flush`: a ZSTD_EndDirective. Sets `consumed` and `produced`;
   * answers what fails, if anything.
   */
  step(flush: number, input: Uint8Array, start: number, output: Uint8Array): string | undefined {
    if (!this.#context) throw new StorageError('internal', 'Cannot compress: the stream is closed');
    const [outputAt, inputAt] = this.#positions;
    outputAt.writeBigUInt64LE(0n);
    inputAt.writeBigUInt64LE(BigInt(start));
    const { length } = input;
    const result = this.#by.step(this.#context, output, output.length, outputAt, input, length, inputAt, flush);
    const error = -Number(BigInt.asIntN(64, BigInt(result)));
    if (error > 0 && error < ERRORS) {
      if (error === ERROR_MEMORY_ALLOCATION) throw noMemory();
      return `error ${error}`;
    }
    this.produced = Number(outputAt.readBigUInt64LE());
    this.consumed = Number(inputAt.readBigUInt64LE()) - start;
    return undefined;
  }

  /** Frees what it holds. May be repeated. */
  close(): void {
    if (!this.#context) return;
    this.#by.free(this.#context);
    this.#context = 0;
  }
}

function noMemory(): StorageError {
  return new StorageError('resource-exhausted', 'Cannot compress: there is no memory for it; free some memory');
}

/** Tried once in each thread: a Node that hides these functions, or has others of these names, has none. */
function find(): Functions | undefined {
  try {
    const by = Object.fromEntries(
      Object.entries(FUNCTIONS).map(([name, prototype]) => [name, inProcess(prototype)]),
    ) as Functions;
    const stream = new ZstdStream(by, 1);
    try {
      const [text, room] = [Buffer.from(TEXT), Buffer.alloc(64)];
      const failure = stream.step(E_END, text, 0, room);
      const frame = room.toString('hex', 0, stream.produced);
      return failure === undefined && frame === TEXT_FRAME ? by : undefined;
    } finally {
      stream.close();
    }
  } catch {
    return undefined; // there is no such function
  }
}

const found: { by?: Functions | undefined } = {};

/** undefined where node:zlib is to do it. Loads nothing once it was called in this thread. */
export function zstdStream(level: number): ZstdStream | undefined {
  if (!('by' in found)) found.by = find();
  return found.by === undefined ? undefined : new ZstdStream(found.by, level);
}
