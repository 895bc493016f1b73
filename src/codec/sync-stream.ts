import { StorageError } from '../base/errors.ts';

/**
 * The part of Node's zlib streams that is not documented: what `gunzipSync` and `_processChunk` are made of. There is
 * no public way to stream synchronously, and none at all to choose where the output goes, hence no fallback.
 */
interface Handle {
  onerror: (message: string, errno: number, code: string) => void;
  writeSync(
    flush: number,
    input: Uint8Array | null,
    inputStart: number,
    inputLength: number,
    output: Uint8Array,
    outputStart: number,
    outputLength: number,
  ): void;
}

/** Codes of zlib and zstd for "no memory": the machine's fault, not the data's. */
const MEMORY_CODES: ReadonlySet<string> = new Set(['Z_MEM_ERROR', 'ZSTD_error_memory_allocation']);

/** Native lengths are 32 bits wide. */
const INPUT_MAX = 2 ** 30;

/** One of node:zlib's streams (createGunzip, createZstdCompress…), driven synchronously and by hand. */
export class SyncStream {
  /** Bytes that the last step took from its input. */
  consumed = 0;
  /** Bytes that the last step put at the start of its output. */
  produced = 0;
  readonly #stream: { close(): void };
  readonly #state: Uint32Array;
  #handle: Handle | undefined;
  #failure: { readonly message: string; readonly code: string } | undefined;

  /** Owns `stream` from now on; `unsupported` where this Node's streams have no synchronous handle. */
  constructor(stream: { close(): void }) {
    const handle: unknown = Reflect.get(stream, '_handle');
    const state: unknown = Reflect.get(stream, '_writeState');
    if (!isHandle(handle) || !(state instanceof Uint32Array) || state.length !== 2) {
      throw new StorageError(
        'unsupported',
        `Cannot compress or decompress: Node ${process.version} has no synchronous zlib handle ("_handle.writeSync"); run Node 24, which has it`,
      );
    }
    // Errors arrive only here: writeSync itself neither throws nor counts, so a loop around it would never end.
    handle.onerror = (message, _errno, code) => {
      this.#failure = { message, code };
    };
    this.#stream = stream;
    this.#handle = handle;
    this.#state = state;
  }

  /**
   * One native call over `input` from `start` on (null: no input) into `output`, which must not be empty. Sets
   * `consumed` and `produced`. Answers what is wrong with the data, if anything; after that only `close` is allowed.
   */
  step(flush: number, input: Uint8Array | null, start: number, output: Uint8Array): string | undefined {
    // A call on a closed handle, or bounds that are off, would abort the process, not throw.
    if (this.#handle === undefined) throw closedError();
    if (output.length === 0) {
      throw new StorageError('internal', 'Cannot compress or decompress: there is no room for output');
    }
    const inputLength = input === null ? 0 : Math.min(input.length - start, INPUT_MAX);
    const outputLength = Math.min(output.length, INPUT_MAX);
    this.#handle.writeSync(flush, input, start, inputLength, output, 0, outputLength);
    if (this.#failure !== undefined) return this.#fail(this.#failure);
    // _writeState is [room left, input left].
    this.produced = outputLength - this.#state[0]!;
    this.consumed = inputLength - this.#state[1]!;
    return undefined;
  }

  #fail(failure: { readonly message: string; readonly code: string }): string {
    this.consumed = 0;
    this.produced = 0;
    if (MEMORY_CODES.has(failure.code)) {
      throw new StorageError(
        'resource-exhausted',
        `Cannot compress or decompress: ${failure.message}; free some memory`,
      );
    }
    return failure.message;
  }

  /** Frees the native state now (a zstd window is up to 128 MiB), not when the collector comes by. May be repeated. */
  close(): void {
    if (this.#handle === undefined) return;
    this.#handle = undefined;
    this.#stream.close();
  }
}

/** What every call on something closed answers. */
export function closedError(): StorageError {
  return new StorageError(
    'failed-precondition',
    'Cannot compress or decompress: the stream is closed; make a new one for other data',
  );
}

function isHandle(value: unknown): value is Handle {
  return typeof value === 'object' && value !== null && typeof Reflect.get(value, 'writeSync') === 'function';
}
