import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import { isStorageError, revive, StorageError } from '../base/errors.ts';
import type { IdMaps } from '../base/id-map.ts';
import type { RunOptions } from '../base/pool.ts';
import { abortRing, type RingMemory, RingWriter, ringMemory } from '../base/ring.ts';
import { until } from '../base/until.ts';
import type { Abortable, ByteStream, Finding, LayerId } from '../base/values.ts';
import type { InflateLimits } from '../codec/inflate.ts';
import type { Compression } from '../codec/sniff.ts';
import type { LayerContent } from '../driver/driver.ts';
import type { MarkStyle } from '../fs/whiteouts.ts';
import type { ApplyAnswer, ApplyRequest, SettleAnswer, SettleRequest } from './jobs/apply.ts';
import type { PackRequest } from './jobs/compare.ts';
import { digestMemory } from './jobs/hash.ts';
import type { FileRange, InflateAnswer, InflateRequest } from './jobs/inflate.ts';
import type { MergeRequest } from './jobs/trees.ts';
import type { Threads } from './threads.ts';

// How a layer is filled, in two halves: unpacking, which looks at nothing but the archive, and settling, which needs the
// layers below. Where a layer is a full copy, both happen beside it and the result is then merged into it.

/** Layers below this many bytes are inflated and unpacked in one thread: a second one would cost more than it gives. */
export const SMALL_BYTES: number = 1 << 20;

/** Layers from that many bytes on are hashed in a thread of their own. */
const LARGE_BYTES = 8 << 20;

/** Told of bytes done, at most ten times a second. */
export interface Watched extends Abortable {
  readonly onBytes?: (bytesDone: number) => void;
}

/** How a layer is filled. */
export interface ApplyOptions extends Watched {
  /** The layer that the archive was made against. Default: the layer's own parent. */
  readonly parent?: LayerId;
  /** A new file for the split record. */
  readonly record?: ByteString;
  readonly limits?: Partial<InflateLimits>;
  /** true: the layer was just made, by a caller who alone knows it. A full copy is then not searched for entries. */
  readonly fresh?: boolean;
  /** true: inflate and unpack in one thread, however large. Where others have work for the second one. */
  readonly oneThread?: boolean;
}

/** What became of a tar that was unpacked into a layer. */
export interface ApplyReport {
  readonly diffId: Digest;
  readonly sizeBytes: number;
  readonly tarBytes: number;
  readonly entries: number;
  readonly exact: Finding;
  readonly notes: readonly string[];
  /** Of the bytes as they came, where they came from a file. */
  readonly blobDigest?: Digest;
  readonly compression?: Compression;
}

/** The layer that is filled. */
export interface FillTarget {
  readonly id: LayerId;
  /** Its lowers are left out where it is fresh. */
  readonly content: LayerContent;
  /** The trees below it, top first. */
  readonly lowers: () => Promise<readonly ByteString[]>;
  readonly ids: IdMaps;
  /** true: the content is what a mounted layer shows. What it has already is what the changes are done to. */
  readonly mounted?: boolean;
}

type RequestOf = (from: ApplyRequest['from']) => ApplyRequest;
type Answer = ApplyAnswer & { readonly inflated?: InflateAnswer };

/** What is known of a layer whose own entries are in place. */
interface Parts {
  readonly threads: Threads;
  readonly target: FillTarget;
  readonly style: MarkStyle;
  /** The tree that was unpacked: the layer's own, or one beside it. */
  readonly root: ByteString;
  readonly staged: boolean;
  readonly options: ApplyOptions;
  readonly unsettled: Uint8Array;
  readonly sizeBytes?: number;
  readonly found: Omit<ApplyReport, 'sizeBytes'>;
}

/** A layer whose own entries are in place. */
export class Unpacked {
  readonly #parts: Parts;
  readonly #ended: () => Promise<unknown>;
  /** Once asked for: finding them takes a look at each. */
  #lowers: readonly ByteString[] | undefined;

  /** `ended`: called when it is settled, or could not be. */
  constructor(parts: Parts, ended: () => Promise<unknown> = async () => {}) {
    this.#parts = parts;
    this.#ended = ended;
  }

  get diffId(): Digest {
    return this.#parts.found.diffId;
  }

  /** Absent where the tar came as a stream. */
  get blobDigest(): Digest | undefined {
    return this.#parts.found.blobDigest;
  }

  /** With something more to do at the end. */
  whenEnded(task: () => unknown): Unpacked {
    const ended = async (): Promise<void> => {
      try {
        await this.#ended();
      } finally {
        await task();
      }
    };
    return new Unpacked(this.#parts, ended);
  }

  /** The second half. The layers below must be settled. */
  async settle(): Promise<ApplyReport> {
    const { reports, failure } = await Unpacked.settle([this]);
    if (failure !== undefined) throw failure.error;
    return reports[0] as ApplyReport;
  }

  /**
   * As `settle` of each, in one job: layers that stack, bottom first, each on the one before it. `below`: what the first
   * one lies on, where that was settled so too.
   */
  static async settle(chain: readonly Unpacked[], below?: Unpacked): Promise<SettledChain> {
    const [bottom] = chain;
    if (bottom === undefined) return { reports: [] };
    try {
      return await bottom.#settleWith(chain, below);
    } catch (error) {
      return { reports: [], failure: { error } };
    } finally {
      for (const layer of chain) await layer.#ended();
    }
  }

  async #known(): Promise<readonly ByteString[]> {
    this.#lowers ??= await this.#parts.target.lowers();
    return this.#lowers;
  }

  async #settleWith(chain: readonly Unpacked[], below: Unpacked | undefined): Promise<SettledChain> {
    const { threads, target, style, staged, root, options } = this.#parts;
    const { content, ids } = target;
    const { signal, fresh } = options;
    let under = below;
    for (const layer of chain) {
      if (under !== undefined) layer.#lowers = [under.#parts.target.content.root, ...(await under.#known())];
      under = layer;
    }
    const request: SettleRequest = {
      ids,
      style,
      lowers: await this.#known(),
      lowerStyle: content.whiteouts,
      layers: chain
        .map((layer) => layer.#parts)
        .map((layer) => ({
          root: layer.root,
          unsettled: layer.unsettled,
          ...(layer.sizeBytes === undefined ? {} : { sizeBytes: layer.sizeBytes }),
        })),
    };
    const { settled, failure } = await threads.jobs.run<SettleAnswer>({ name: 'settle', request }, { signal });
    const reports = settled.map(({ sizeBytes, notes }, i) => {
      const { found } = (chain[i] as Unpacked).#parts;
      return { ...found, sizeBytes, notes: [...found.notes, ...notes] };
    });
    if (failure !== undefined) return { reports, failure: { error: revive(failure) } };
    if (staged) {
      const merge: MergeRequest = { staged: root, target: content.root, style };
      signal?.throwIfAborted();
      // Given up in the middle it leaves half of the changes: only where the layer is then thrown away.
      await threads.jobs.run({ name: 'merge', request: merge }, fresh === true ? { signal } : {});
    }
    return { reports };
  }
}

/** How far a chain of layers was settled. */
export interface SettledChain {
  readonly reports: readonly ApplyReport[];
  /** Why the next one could not be. */
  readonly failure?: { readonly error: unknown };
}

/** Fills a layer; `unpack` gets the entries into the directory that the request names. */
export async function fill(
  threads: Threads,
  target: FillTarget,
  options: ApplyOptions,
  unpack: (request: RequestOf) => Promise<Answer>,
): Promise<Unpacked> {
  const { content, ids, mounted = false } = target;
  const { record, fresh } = options;
  const staged = content.whiteouts === 'none' ? await stage(threads, target) : undefined;
  const root = staged ?? content.root;
  const style: MarkStyle = staged === undefined ? 'overlay' : 'plain';
  const clear = async (): Promise<void> => {
    if (staged !== undefined) await threads.perform.removeTree(staged);
  };
  try {
    const searched = staged === undefined || mounted || fresh === true ? {} : { copy: copyOf(content) };
    const answer = await unpack((from) => ({
      from,
      root,
      ids,
      style,
      ...searched,
      ...(record === undefined ? {} : { record }),
    }));
    const { unsettled, sizeBytes, inflated, ...rest } = answer;
    const found = {
      ...rest,
      ...(inflated === undefined ? {} : { blobDigest: inflated.blobDigest, compression: inflated.compression }),
    };
    const parts: Parts = {
      threads,
      target,
      style,
      root,
      staged: staged !== undefined,
      options,
      unsettled,
      ...(sizeBytes === undefined ? {} : { sizeBytes }),
      found,
    };
    return new Unpacked(parts, clear);
  } catch (error) {
    await clear();
    throw error;
  }
}

function copyOf({ root, lowers: [of] }: LayerContent): NonNullable<ApplyRequest['copy']> {
  return of === undefined ? { root } : { root, of };
}

async function stage(threads: Threads, { id, content: { staging } }: FillTarget): Promise<ByteString> {
  if (staging === undefined) throw new StorageError('internal', `Layer "${id}" has no place to unpack beside it`);
  await threads.perform.removeTree(staging);
  await threads.jobs.run({ name: 'makeDirectory', request: staging });
  return staging;
}

/** Unpacks an archive from a file or a stream. */
export async function unpackTar(
  threads: Threads,
  tar: FileRange | ByteStream,
  request: RequestOf,
  options: ApplyOptions,
): Promise<Answer> {
  const watched = watch(options);
  if (isRange(tar)) {
    const limits = options.limits ?? {};
    if (tar.length < SMALL_BYTES || options.oneThread === true || threads.width === 1) {
      const job = { name: 'apply', request: request({ kind: 'file', range: tar, limits }) };
      return threads.jobs.run<ApplyAnswer>(job, watched);
    }
    return unpackBeside(threads, tar, request, options);
  }
  const ring = ringMemory();
  const job = { name: 'apply', request: request({ kind: 'ring', ring }) };
  return fed(tar, ring, threads.jobs.run<ApplyAnswer>(job, { ...watched, giveUp: () => abortRing(ring) }));
}

/** One thread inflates, one unpacks; a large layer is hashed in a third, which takes what the two leave of the cores. */
async function unpackBeside(
  threads: Threads,
  tar: FileRange,
  request: RequestOf,
  options: ApplyOptions,
): Promise<Answer> {
  const tarSha256 = digestMemory();
  const tapped = tar.length >= LARGE_BYTES && !threads.hashes;
  const ring = ringMemory({ tapped });
  const inflating: InflateRequest = {
    from: tar,
    to: ring,
    limits: options.limits ?? {},
    ...(tapped ? {} : { tarSha256 }),
  };
  let failure: { readonly error: unknown } | undefined;
  const hashed = tapped ? threads.hash(ring, tarSha256) : Promise.resolve();
  const watching = hashed.catch((error: unknown) => {
    failure = { error };
    abortRing(ring);
  });
  try {
    const [inflated, applied] = (await threads.jobs.runTogether(
      [
        { name: 'inflate', request: inflating },
        { name: 'apply', request: request({ kind: 'ring', ring, tarSha256 }) },
      ],
      { ...watch(options), giveUp: () => abortRing(ring) },
    )) as [InflateAnswer, ApplyAnswer];
    return { ...applied, inflated };
  } catch (error) {
    abortRing(ring);
    await watching;
    // Where all the others only gave up, it was the hashing that failed.
    throw isStorageError(error, 'canceled') ? (failure?.error ?? error) : error;
  } finally {
    await watching;
  }
}

/** Unpacks what another layer's changes are packed into, at the same time. */
export async function unpackPacked(
  threads: Threads,
  packing: (ring: RingMemory) => PackRequest,
  request: RequestOf,
  options: ApplyOptions,
): Promise<Answer> {
  const ring = ringMemory();
  const [skipped, applied] = (await threads.jobs.runTogether(
    [
      { name: 'pack', request: packing(ring) },
      { name: 'apply', request: { ...request({ kind: 'ring', ring }), zerosAreHoles: true } satisfies ApplyRequest },
    ],
    { ...watch(options), giveUp: () => abortRing(ring) },
  )) as [readonly string[], ApplyAnswer];
  return { ...applied, notes: [...skipped, ...applied.notes] };
}

function isRange(tar: FileRange | ByteStream): tar is FileRange {
  return 'fd' in tar && 'offset' in tar; // a stream of a process may have an `fd` of its own
}

/** Pours the stream into the ring while the job empties it; the true error of either side is thrown. */
async function fed(tar: ByteStream, ring: RingMemory, running: Promise<ApplyAnswer>): Promise<ApplyAnswer> {
  const writer = new RingWriter(ring);
  const failed = new AbortController();
  // A source that stalls keeps nobody waiting, and neither does a job that never began.
  running.catch((error: unknown) => {
    failed.abort(error);
    abortRing(ring);
  });
  try {
    for await (const chunk of until(tar, failed.signal)) await writer.writeAsync(chunk);
    writer.end();
  } catch (error) {
    if (failed.signal.aborted || isStorageError(error, 'canceled')) return await running; // its error says why
    abortRing(ring);
    await running.catch(() => {}); // the source's error is the first
    throw error;
  }
  return running;
}

/** As the pool wants to be asked: the first job of a group is the one whose bytes are told. */
export function watch(options: Watched): RunOptions {
  const { onBytes, signal } = options;
  return { signal, ...(onBytes === undefined ? {} : { onProgress: ([first]) => onBytes(first ?? 0) }) };
}
