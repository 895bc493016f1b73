import { StorageError } from '../base/errors.ts';
import type { Abortable, ByteStream } from '../base/values.ts';
import { TarLexer } from './lexer.ts';
import type { TarEntry, TarLimits } from './types.ts';

/** One member of an archive that is being read. */
export interface TarMember {
  readonly entry: TarEntry;
  /**
   * The bytes of a file (of a sparse one: its runs, one after another), once, and only until the next member is asked
   * for. Chunks are borrowed until the next chunk is asked for. What is not read is skipped.
   */
  readonly payload: AsyncIterable<Uint8Array>;
}

/** How an archive is read. */
export interface ReadTarOptions extends Abortable {
  readonly limits?: Partial<TarLimits>;
}

/** How much is lexed before its parts are handed out: bounds the queue, whatever chunks the stream has. */
const SLICE_BYTES = 1 << 18;

/**
 * The members of an archive, in order. A damaged archive rejects with `corrupt`; leaving the loop ends the stream.
 * @example for await (const { entry, payload } of readTar(createReadStream('layer.tar'))) console.log(toText(entry.name));
 */
export async function* readTar(
  stream: ByteStream,
  options: ReadTarOptions = {},
): AsyncGenerator<TarMember, void, void> {
  const parts = lexed(stream, options);
  try {
    let member = 0;
    for (;;) {
      const part = await parts.next();
      if (part.done === true) return;
      if (!('entry' in part.value)) continue; // what the caller left of the payload before
      const mine = ++member;
      const payload = async function* (): AsyncGenerator<Uint8Array, void, void> {
        for (;;) {
          if (mine !== member) {
            throw new StorageError('failed-precondition', 'Cannot read this payload: the next member was asked for');
          }
          const next = await parts.next();
          if (next.done === true || !('data' in next.value)) return;
          yield next.value.data;
        }
      };
      yield { entry: part.value.entry, payload: payload() };
    }
  } finally {
    await parts.return(undefined);
  }
}

type Part = { readonly entry: TarEntry } | { readonly data: Uint8Array } | { readonly end: true };
const END: Part = { end: true };

async function* lexed(stream: ByteStream, options: ReadTarOptions): AsyncGenerator<Part, void, void> {
  let parts: Part[] = [];
  const lexer = new TarLexer(
    {
      raw: () => {},
      entry: (entry) => parts.push({ entry }),
      data: (data) => parts.push({ data }),
      end: () => parts.push(END),
    },
    options.limits,
  );
  for await (const chunk of stream) {
    for (let at = 0; at < chunk.length; at += SLICE_BYTES) {
      options.signal?.throwIfAborted();
      lexer.write(chunk.subarray(at, at + SLICE_BYTES));
      const ready = parts;
      parts = [];
      yield* ready;
    }
  }
  lexer.finish();
}
