import { closeSync, openSync } from 'node:fs';
import { type ByteString, toBytes, toTextExact } from '../../base/bytes.ts';
import type { Bytes } from '../../store/types.ts';
import type { Context } from './context.ts';
import { explained } from './errors.ts';
import { UsageError } from './parse.ts';

export interface Source extends Disposable {
  readonly bytes: Bytes;
}

/** What `-i` names: a file or a directory by its path, or standard input (also without `-i`), but never a terminal. */
export function sourceOf(context: Context, input: ByteString | undefined): Source {
  if (input === undefined || input === '-') return { bytes: standardInput(context), [Symbol.dispose]: () => {} };
  const path = toTextExact(input);
  if (path !== undefined) return { bytes: path, [Symbol.dispose]: () => {} };
  // The library takes paths as text; the descriptor's path is text and means the same file or directory.
  try {
    const fd = openSync(toBytes(input), 'r');
    return { bytes: `/proc/self/fd/${fd}`, [Symbol.dispose]: () => closeSync(fd) };
  } catch (error) {
    throw explained(error, 'read', input);
  }
}

/** Standard input as bytes; an abort ends a read that waits for a writer. */
export function standardInput(context: Context): AsyncIterable<Uint8Array> {
  const stdin = context.stdin();
  if (stdin.isTTY === true) throw new UsageError('nothing to read: name a file with -i, or send an archive in');
  context.signal.addEventListener('abort', () => stdin.destroy(context.signal.reason), { once: true });
  // Only its bytes: the stream itself also looks like an open file, which others read by descriptor.
  return { [Symbol.asyncIterator]: () => stdin[Symbol.asyncIterator]() };
}
