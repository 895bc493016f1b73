// The entry module of the threads that gzip.test.ts starts.
import { readFileSync } from 'node:fs';
import { type JobTable, serve } from '../../src/base/pool.ts';
import { Deflater } from '../../src/codec/deflate.ts';
import { type GzipMemory, helpGzip } from '../../src/codec/gzip.ts';
import { pieces } from './streams.ts';

export interface DeflateRequest {
  readonly memory: GzipMemory;
  readonly path: string;
  readonly lengths: readonly number[];
  /** Fails after so many bytes of output. */
  readonly failAfter?: number;
}

const TABLE: JobTable = {
  deflate({ memory, path, lengths, failAfter = Number.POSITIVE_INFINITY }: DeflateRequest): Buffer {
    const parts: Buffer[] = [];
    let bytes = 0;
    const out = (part: Uint8Array): void => {
      bytes += part.length;
      if (bytes > failAfter) throw new RangeError('the disk is full');
      parts.push(Buffer.from(part));
    };
    const deflater = new Deflater('gzip', out, { memory });
    for (const piece of pieces(readFileSync(path), lengths)) deflater.write(piece);
    deflater.finish();
    return Buffer.concat(parts);
  },
  /** `failing`: before it has done anything. */
  help({ memory, failing = false }: { readonly memory: GzipMemory; readonly failing?: boolean }): void {
    if (failing) throw new RangeError('no memory');
    helpGzip(memory);
  },
};
serve(TABLE);
