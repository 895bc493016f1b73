import { closeSync, openSync } from 'node:fs';
import { type ByteString, quote, toBytes } from '../../base/bytes.ts';
import { sha256 } from '../../base/crypto.ts';
import { type ErrorRecord, StorageError } from '../../base/errors.ts';
import { type IdMaps, toHost } from '../../base/id-map.ts';
import { type JobContext, jobError } from '../../base/pool.ts';
import { type RingMemory, RingReader } from '../../base/ring.ts';
import type { Finding } from '../../base/values.ts';
import { Deflater } from '../../codec/deflate.ts';
import type { InflateLimits } from '../../codec/inflate.ts';
import { CODECS, type Codec } from '../../codec/warm.ts';
import { type ApplierOptions, LayerApplier } from '../../diff/apply.ts';
import { settle as settleLayer } from '../../diff/fix-ups.ts';
import { LayerTree } from '../../diff/layer-tree.ts';
import { Notes } from '../../diff/notes.ts';
import { decodeUnsettled, encodeUnsettled } from '../../diff/unsettled.ts';
import { walkChanges } from '../../diff/walk.ts';
import { LowerView } from '../../fs/lower-view.ts';
import { typeOf } from '../../fs/stat.ts';
import { writeAll } from '../../fs/transfer.ts';
import { treeSizeBytes } from '../../fs/usage.ts';
import { type MarkStyle, marksOf } from '../../fs/whiteouts.ts';
import { viaWorkingDirectory } from '../../fs/xattrs.ts';
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
import { TarLexer } from '../../tar/lexer.ts';
import { SplitWriter } from '../../tar/split.ts';
import type { TarEntry, TarSink } from '../../tar/types.ts';
import { takeDigest } from './hash.ts';
import { type FileRange, type InflateAnswer, inflateHashed } from './inflate.ts';
import type { Jail } from './jail.ts';

const ROOT = '/' as ByteString;
/** How much is inflated at a time: no more than a small layer has. */
const SLOT_BYTES_MIN = 16 * 1024;
const SLOT_BYTES_MAX = 256 * 1024;

export interface ApplyRequest extends ApplierOptions {
  readonly from:
    | {
        readonly kind: 'ring';
        readonly ring: RingMemory;
        /** Where another thread puts the digest; absent: hashed here. */
        readonly tarSha256?: SharedArrayBuffer;
      }
    | { readonly kind: 'file'; readonly range: FileRange; readonly limits: Partial<InflateLimits> };
  /** The layer's own tree; where the layer is a full copy, a new directory beside it. */
  readonly root: ByteString;
  /** A layer that is a full copy, to be looked at, and what it is a copy of. */
  readonly copy?: { readonly root: ByteString; readonly of?: ByteString };
  readonly ids: IdMaps;
  readonly style: MarkStyle;
  /** A new file for the split record; absent: none is written. */
  readonly record?: ByteString;
}

export interface ApplyAnswer {
  /** For `settle`: until that is done, the layer is not whole. */
  readonly unsettled: Uint8Array;
  /** Sum of the sizes of the layer's non-directories, links once; absent where only a count can tell. */
  readonly sizeBytes?: number;
  readonly entries: number;
  /** Whether record and files give the tar back. */
  readonly exact: Finding;
  readonly notes: readonly string[];
  readonly tarBytes: number;
  readonly diffId: `sha256:${string}`;
  /** Of the blob, where this thread inflated it itself. */
  readonly inflated?: InflateAnswer;
}

/** Job: unpacks one layer, jailed in it, and writes its split record. */
export function apply(request: ApplyRequest, context: JobContext, jail: Jail): ApplyAnswer {
  const record = request.record === undefined ? undefined : new RecordFile(request.record);
  try {
    requireNoEntries(request);
    using applier = jail.inside(request.root, [], () => new LayerApplier(ROOT, request.ids, request));
    const { tarBytes, tarSha256, inflated, unsettled } = jail.inside(request.root, codecsOf(request), () => {
      const ended = feed(request, new Unpacking(applier, record?.split, context), context);
      record?.split.end(ended.tarBytes, ended.tarSha256);
      return { ...ended, unsettled: encodeUnsettled(applier.finish(() => context.check())) };
    });
    record?.finish();
    return {
      unsettled,
      ...(applier.sizeBytes === undefined ? {} : { sizeBytes: applier.sizeBytes }),
      entries: applier.entries,
      exact: exactness(applier),
      notes: applier.notes.list(),
      tarBytes,
      diffId: `sha256:${tarSha256.toString('hex')}`,
      ...(inflated === undefined ? {} : { inflated }),
    };
  } finally {
    record?.close();
  }
}

function codecsOf({ from, record }: ApplyRequest): readonly Codec[] {
  if (from.kind === 'file') return CODECS;
  return [
    ...(record === undefined ? [] : ['zstd' as const]),
    ...(from.tarSha256 === undefined ? ['sha256' as const] : []),
  ];
}

/** A second archive would meet the first one's entries as if they were its own. */
function requireNoEntries({ root, copy }: ApplyRequest): void {
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

/** Layers that stack, bottom first. */
export interface SettleRequest extends Pick<ApplyRequest, 'ids' | 'style'> {
  /** The trees below the first one, top first, all settled. */
  readonly lowers: readonly ByteString[];
  readonly lowerStyle: 'overlay' | 'none';
  readonly layers: readonly UnsettledLayer[];
}

interface UnsettledLayer {
  readonly root: ByteString;
  readonly unsettled: Uint8Array;
  /** What `apply` knew of it. */
  readonly sizeBytes?: number;
}

interface SettledLayer {
  /** Sum of the sizes of the layer's non-directories, links once. */
  readonly sizeBytes: number;
  readonly notes: readonly string[];
}

export interface SettleAnswer {
  /** Those that are done; where not all are, the next one failed. */
  readonly settled: readonly SettledLayer[];
  readonly failure?: ErrorRecord;
}

/** Job: does what needs the layers below, jailed in each layer after the other. */
export function settle(request: SettleRequest, context: JobContext, jail: Jail): SettleAnswer {
  const settled: SettledLayer[] = [];
  const lowers = [...request.lowers];
  try {
    for (const layer of request.layers) {
      settled.push(settleOne(request, layer, lowers, context, jail));
      lowers.unshift(layer.root);
    }
    return { settled };
  } catch (error) {
    return { settled, failure: jobError(error) };
  }
}

function settleOne(
  { ids, style, lowerStyle }: SettleRequest,
  { root, unsettled, sizeBytes }: UnsettledLayer,
  lowers: readonly ByteString[],
  context: JobContext,
  jail: Jail,
): SettledLayer {
  using below = lowers.length === 0 ? undefined : new LowerView(lowers, lowerStyle, viaWorkingDirectory);
  const { directories, placeholders } = decodeUnsettled(unsettled);
  const notes = new Notes();
  const check = (): void => context.check();
  const rootPair = { uid: toHost(0, ids.uid, 'user'), gid: toHost(0, ids.gid, 'group') };
  jail.inside(root, [], () => {
    using tree = new LayerTree(ROOT, marksOf(style), directories);
    settleLayer({ tree, placeholders, rootPair, notes, check }, below);
  });
  return { sizeBytes: sizeBytes ?? treeSizeBytes(root, check), notes: notes.list() };
}

function exactness(applier: LayerApplier): Finding {
  const { overwritten } = applier.tree;
  if (overwritten !== undefined) return { holds: false, because: `a later entry replaces ${quote(overwritten)}` };
  if (applier.unkept !== undefined) {
    return { holds: false, because: `the content of ${quote(applier.unkept)} is in no file of the tree` };
  }
  return { holds: true, because: 'every payload is a file of the tree' };
}

interface Ended {
  readonly tarBytes: number;
  readonly tarSha256: Buffer;
  readonly inflated?: InflateAnswer;
}

/** Gives all bytes of the tar to the lexer. */
function feed(request: ApplyRequest, sink: Unpacking, context: JobContext): Ended {
  const lexer = new TarLexer(sink);
  const { from } = request;
  if (from.kind === 'file') {
    const slot = Buffer.allocUnsafe(Math.min(SLOT_BYTES_MAX, Math.max(SLOT_BYTES_MIN, from.range.length * 4)));
    const {
      tarSha256,
      diffId: _,
      ...inflated
    } = inflateHashed(
      from.range,
      { reserve: () => slot, commit: (n) => lexer.write(slot.subarray(0, n)) },
      from.limits,
      context,
    );
    lexer.finish();
    return { tarBytes: inflated.tarBytes, tarSha256, inflated };
  }
  const reader = new RingReader(from.ring);
  const hash = from.tarSha256 === undefined ? sha256() : undefined;
  let tarBytes = 0;
  for (let view = reader.next(); view !== undefined; view = reader.next()) {
    context.check();
    hash?.update(view);
    lexer.write(view);
    tarBytes += view.length;
    context.done(tarBytes);
    reader.release();
  }
  lexer.finish();
  return { tarBytes, tarSha256: hash?.digest() ?? takeDigest(from.tarSha256 as SharedArrayBuffer, from.ring) };
}

/** What the lexer finds, to the tree and to the record. */
class Unpacking implements TarSink {
  readonly #applier: LayerApplier;
  readonly #record: SplitWriter | undefined;
  readonly #context: JobContext;
  #kept = false;

  constructor(applier: LayerApplier, record: SplitWriter | undefined, context: JobContext) {
    this.#applier = applier;
    this.#record = record;
    this.#context = context;
  }

  raw(bytes: Uint8Array): void {
    this.#record?.raw(bytes);
  }

  entry(entry: TarEntry): void {
    this.#context.check(); // a piece of the tar may hold hundreds
    const kept = this.#applier.entry(entry);
    this.#kept = kept !== undefined;
    if (kept !== undefined) this.#record?.file(kept.path, payloadBytes(entry), entry.sparse);
  }

  data(bytes: Uint8Array): void {
    if (this.#kept) this.#applier.data(bytes);
  }

  end(): void {
    this.#applier.end();
  }
}

function payloadBytes(entry: TarEntry): number {
  return entry.sparse === undefined ? entry.sizeBytes : entry.sparse.reduce((sum, { length }) => sum + length, 0);
}

/** A split record on disk: zstd around the codec's bytes. Opened before the jail, written from inside. */
class RecordFile {
  readonly #fd: number;
  readonly #deflater: Deflater;
  readonly split: SplitWriter;

  constructor(path: ByteString) {
    this.#fd = openSync(toBytes(path), 'wx', 0o600);
    this.#deflater = new Deflater('zstd', (bytes) => {
      writeAll(this.#fd, bytes, path);
    });
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
