import { createHash } from 'node:crypto';
import type { ByteString } from '../../src/base/bytes.ts';
import { SplitReader, SplitWriter, type TarEntry, TarLexer, type TarLimits } from '../../src/tar/index.ts';

/** One member with its payload, for tests that hold everything in memory. */
export interface Collected {
  readonly entry: TarEntry;
  readonly payload: Buffer;
  ended: boolean;
}

/** Cuts `bytes` into chunks of the given sizes, over and over. */
export function* chunked(bytes: Uint8Array, sizes: readonly number[]): Generator<Uint8Array> {
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const size = sizes[i % sizes.length] ?? bytes.length;
    yield bytes.subarray(at, at + size);
    at += size;
  }
}

/** Lexes all of `tar`: its members, and the concatenation of everything that the sink got. */
export function lex(
  tar: Uint8Array,
  sizes: readonly number[] = [tar.length],
  limits: Partial<TarLimits> = {},
): { members: Collected[]; bytes: Buffer } {
  const members: { entry: TarEntry; chunks: Buffer[]; ended: boolean }[] = [];
  const all: Buffer[] = [];
  const lexer = new TarLexer(
    {
      raw: (bytes) => all.push(Buffer.from(bytes)),
      entry: (entry) => members.push({ entry, chunks: [], ended: false }),
      data: (bytes) => {
        const copy = Buffer.from(bytes);
        all.push(copy);
        members.at(-1)?.chunks.push(copy);
      },
      end: () => {
        const last = members.at(-1);
        if (last === undefined || last.ended) throw new Error('an end without an entry');
        last.ended = true;
      },
    },
    limits,
  );
  for (const chunk of chunked(tar, sizes)) lexer.write(chunk);
  lexer.finish();
  return {
    members: members.map(({ entry, chunks, ended }) => ({ entry, payload: Buffer.concat(chunks), ended })),
    bytes: Buffer.concat(all),
  };
}

/** The whole content of a file, holes filled. */
export function expand({ entry, payload }: Collected): Buffer {
  if (entry.sparse === undefined) return payload;
  const out = Buffer.alloc(entry.sizeBytes);
  let at = 0;
  for (const { offset, length } of entry.sparse) {
    payload.copy(out, offset, at, at + length);
    at += length;
  }
  return out;
}

/** Records a tar: the split record, and the contents of its files in the order of the references. */
export function split(tar: Uint8Array): { record: Buffer; files: Buffer[] } {
  const record: Buffer[] = [];
  const files: Buffer[] = [];
  const writer = new SplitWriter((bytes) => record.push(Buffer.from(bytes)));
  let current: TarEntry | undefined;
  let chunks: Buffer[] = [];
  const lexer = new TarLexer({
    raw: (bytes) => writer.raw(bytes),
    entry: (entry) => {
      current = entry;
    },
    data: (bytes) => chunks.push(Buffer.from(bytes)),
    end: () => {
      const payload = Buffer.concat(chunks);
      chunks = [];
      writer.file(current!.name, payload.length, current?.sparse);
      if (payload.length > 0) files.push(payload);
    },
  });
  lexer.write(tar);
  lexer.finish();
  writer.end(tar.length, createHash('sha256').update(tar).digest());
  return { record: Buffer.concat(record), files };
}

/** Rebuilds the tar that `split` took apart, and checks its digest. */
export function replay(record: Uint8Array, files: readonly Buffer[], sizes: readonly number[] = [1 << 20]): Buffer {
  const out: Uint8Array[] = [];
  let next = 0;
  let digest = '';
  const reader = new SplitReader({
    onRaw: (bytes) => out.push(Buffer.from(bytes)),
    onFile: (_name: ByteString, payloadBytes, _extents) => {
      const file = files[next++];
      if (file?.length !== payloadBytes) throw new Error('another file was meant');
      out.push(file);
    },
    onEnd: (_total, sha256) => {
      digest = Buffer.from(sha256).toString('hex');
    },
  });
  for (const chunk of chunked(record, sizes)) reader.write(chunk);
  reader.finish();
  const tar = Buffer.concat(out);
  if (createHash('sha256').update(tar).digest('hex') !== digest) throw new Error('another tar came out');
  return tar;
}
