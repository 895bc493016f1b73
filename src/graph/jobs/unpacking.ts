import { closeSync, openSync } from 'node:fs';
import { type ByteString, quote, toBytes } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';
import type { IdMaps } from '../../base/id-map.ts';
import type { JobContext } from '../../base/pool.ts';
import type { Finding } from '../../base/values.ts';
import { Deflater } from '../../codec/deflate.ts';
import { type ApplierOptions, LayerApplier } from '../../diff/apply.ts';
import type { Unsettled } from '../../diff/unsettled.ts';
import { walkChanges } from '../../diff/walk.ts';
import { typeOf } from '../../fs/stat.ts';
import { writeAll } from '../../fs/transfer.ts';
import type { MarkStyle } from '../../fs/whiteouts.ts';
import {
  AT_FDCWD,
  close,
  lstatat,
  O_DIRECTORY,
  O_RDONLY,
  openat,
  readDirectory,
  type Stat,
} from '../../linux/inode.ts';
import { zstdStream } from '../../linux/zstd.ts';
import { SplitWriter } from '../../tar/split.ts';
import type { TarEntry, TarSink } from '../../tar/types.ts';
import type { Jail } from './jail.ts';

const ROOT = '/' as ByteString;

/** A layer that is to be unpacked. */
export interface UnpackRequest extends ApplierOptions {
  /** The layer's own tree; where the layer is a full copy, a new directory beside it. */
  readonly root: ByteString;
  /** A layer that is a full copy, to be looked at, and what it is a copy of. */
  readonly copy?: { readonly root: ByteString; readonly of?: ByteString };
  readonly ids: IdMaps;
  readonly style: MarkStyle;
  /** A new file for the split record; absent: none is written. */
  readonly record?: ByteString;
}

/** What became of it. */
export interface UnpackAnswer {
  /** For `settle`: until that is done, the layer is not whole. Between threads it goes as bytes. */
  readonly unsettled: Uint8Array | Unsettled;
  /** Sum of the sizes of the layer's non-directories, links once; absent where only a count can tell. */
  readonly sizeBytes?: number;
  readonly entries: number;
  /** Whether record and files give the tar back. */
  readonly exact: Finding;
  readonly notes: readonly string[];
  readonly tarBytes: number;
  readonly diffId: `sha256:${string}`;
}

/** A tar on its way into a layer's tree and its split record. Whoever tells it the tar is in a jail in that layer. */
export class Unpacking implements TarSink, Disposable {
  readonly #applier: LayerApplier;
  readonly #record: RecordFile | undefined;
  readonly #context: JobContext;
  /** Whether the payload that is told goes anywhere. */
  #kept = false;

  private constructor(applier: LayerApplier, record: RecordFile | undefined, context: JobContext) {
    this.#applier = applier;
    this.#record = record;
    this.#context = context;
  }

  /** Outside. A layer that has entries is `failed-precondition`. */
  static begin(request: UnpackRequest, context: JobContext, jail: Jail): Unpacking {
    const record = request.record === undefined ? undefined : new RecordFile(request.record);
    try {
      requireNoEntries(request);
      const applier = jail.inside(request.root, [], () => new LayerApplier(ROOT, request.ids, request));
      return new Unpacking(applier, record, context);
    } catch (error) {
      record?.close();
      throw error;
    }
  }

  raw(bytes: Uint8Array): void {
    this.#record?.split.raw(bytes);
  }

  entry(entry: TarEntry): void {
    this.#context.check(); // a piece of the tar may hold hundreds
    const path = this.#applier.entry(entry);
    this.#kept = path !== undefined;
    if (path !== undefined) this.#record?.split.file(path, payloadBytes(entry), entry.sparse);
  }

  data(bytes: Uint8Array): void {
    if (this.#kept) this.#applier.data(bytes);
  }

  end(): void {
    this.#applier.end();
  }

  /** All of the tar was told, and that is its length and digest; answers what there is to settle. */
  finish(tarBytes: number, tarSha256: Uint8Array): Unsettled {
    this.#record?.split.end(tarBytes, tarSha256);
    return this.#applier.finish(() => this.#context.check());
  }

  /** Outside, at the end. */
  answer(unsettled: Uint8Array | Unsettled, tarBytes: number, tarSha256: Buffer): UnpackAnswer {
    this.#record?.finish();
    const { sizeBytes, entries, notes } = this.#applier;
    return {
      unsettled,
      ...(sizeBytes === undefined ? {} : { sizeBytes }),
      entries,
      exact: exactness(this.#applier),
      notes: notes.list(),
      tarBytes,
      diffId: `sha256:${tarSha256.toString('hex')}`,
    };
  }

  /** Closes what is open. */
  [Symbol.dispose](): void {
    try {
      this.#applier[Symbol.dispose]();
    } finally {
      this.#record?.close();
    }
  }
}

function payloadBytes(entry: TarEntry): number {
  return entry.sparse === undefined ? entry.sizeBytes : entry.sparse.reduce((sum, { length }) => sum + length, 0);
}

function exactness(applier: LayerApplier): Finding {
  const { overwritten } = applier.tree;
  if (overwritten !== undefined) return { holds: false, because: `a later entry replaces ${quote(overwritten)}` };
  if (applier.unkept !== undefined) {
    return { holds: false, because: `the content of ${quote(applier.unkept)} is in no file of the tree` };
  }
  return { holds: true, because: 'every payload is a file of the tree' };
}

/** A second archive would meet the first one's entries as if they were its own. */
function requireNoEntries({ root, copy }: UnpackRequest): void {
  const layer = copy?.root ?? root;
  const has = copy?.of === undefined ? listed(layer).length > 0 : differs(layer, copy.of);
  if (!has) return;
  throw new StorageError('failed-precondition', `Cannot unpack into ${quote(layer)}: the layer has entries already`, {
    path: layer,
  });
}

function listed(directory: ByteString): readonly unknown[] {
  const fd = openat(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY);
  try {
    return readDirectory(fd, directory);
  } finally {
    close(fd);
  }
}

/** Entries show in names, metadata and attributes: contents are not read, whenever they were written. */
const NEVER_IN_DOUBT = { createdNs: 1n << 63n } as const;

function differs(copy: ByteString, of: ByteString): boolean {
  for (const { kind, path } of walkChanges(copy, of, 'core', NEVER_IN_DOUBT)) {
    // A copy is made without the sockets.
    if (kind !== 'delete' || typeOf((lstatat(AT_FDCWD, `${of}${path}` as ByteString) as Stat).mode) !== 'socket')
      return true;
  }
  return false;
}

const LEVEL = 1;

/** A split record on disk: zstd around the codec's bytes. Opened before the jail, written from inside. */
class RecordFile {
  readonly #fd: number;
  readonly #deflater: Deflater;
  readonly split: SplitWriter;

  constructor(path: ByteString) {
    this.#fd = openSync(toBytes(path), 'wx', 0o600);
    const how = { level: LEVEL, by: zstdStream(LEVEL) } as const;
    this.#deflater = new Deflater('zstd', (bytes) => writeAll(this.#fd, bytes, path), how);
    this.split = new SplitWriter((bytes) => this.#deflater.write(bytes));
  }

  finish(): void {
    this.#deflater.finish();
  }

  close(): void {
    this.#deflater.close();
    closeSync(this.#fd);
  }
}
