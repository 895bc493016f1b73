import type { ByteString } from '../base/bytes.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import type { RunOptions } from '../base/pool.ts';
import { abortRing, type RingMemory, RingWriter, ringMemory } from '../base/ring.ts';
import { until } from '../base/until.ts';
import type { ByteStream } from '../base/values.ts';
import type { LayerContent } from '../driver/driver.ts';
import type { MarkStyle } from '../fs/whiteouts.ts';
import type { ApplyOptions, Watched } from './apply.ts';
import type { ApplyAnswer, ApplyRequest } from './jobs/apply.ts';
import type { PackRequest } from './jobs/compare.ts';
import { digestMemory } from './jobs/hash.ts';
import type { FileRange, InflateAnswer, InflateRequest } from './jobs/inflate.ts';
import type { UnpackRequest } from './jobs/unpacking.ts';
import type { Threads } from './threads.ts';
import { type FillTarget, type Parts, UnpackedLayer } from './unpacked.ts';

// How a layer is filled, in two halves: unpacking, which looks at nothing but the archive, and settling, which needs the
// layers below. Where a layer is a full copy, both happen beside it and the result is then merged into it.

/** Layers below this many bytes are inflated and unpacked in one thread: a second one would cost more than it gives. */
export const SMALL_BYTES: number = 1 << 20;

/** Layers from that many bytes on are hashed in a thread of their own. */
const LARGE_BYTES = 8 << 20;

/** Unpacks something into what the request names. */
export type Unpack = (request: UnpackRequest) => Promise<ApplyAnswer>;

/** Fills a layer; `unpack` gets the entries into the directory that the request names. */
export async function fill(
  threads: Threads,
  target: FillTarget,
  options: ApplyOptions,
  unpack: Unpack,
): Promise<UnpackedLayer> {
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
    const answer = await unpack({ root, ids, style, ...searched, ...(record === undefined ? {} : { record }) });
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
    return new UnpackedLayer(parts, clear);
  } catch (error) {
    await clear();
    throw error;
  }
}

function copyOf({ root, lowers: [of] }: LayerContent): NonNullable<UnpackRequest['copy']> {
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
  request: UnpackRequest,
  options: ApplyOptions,
): Promise<ApplyAnswer> {
  const watched = watch(options);
  if (isRange(tar)) {
    const limits = options.limits ?? {};
    if (tar.length < SMALL_BYTES || options.oneThread === true || threads.width === 1) {
      const from: ApplyRequest['from'] = { kind: 'file', range: tar, limits };
      const job = { name: 'apply', request: { ...request, from } satisfies ApplyRequest };
      return threads.jobs.run<ApplyAnswer>(job, watched);
    }
    return unpackBeside(threads, tar, request, options);
  }
  const ring = ringMemory();
  const job = { name: 'apply', request: { ...request, from: { kind: 'ring', ring } } satisfies ApplyRequest };
  return fed(tar, ring, threads.jobs.run<ApplyAnswer>(job, { ...watched, giveUp: () => abortRing(ring) }));
}

/** One thread inflates, one unpacks; a large layer is hashed in a third, which takes what the two leave of the cores. */
async function unpackBeside(
  threads: Threads,
  tar: FileRange,
  request: UnpackRequest,
  options: ApplyOptions,
): Promise<ApplyAnswer> {
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
        { name: 'apply', request: { ...request, from: { kind: 'ring', ring, tarSha256 } } satisfies ApplyRequest },
      ],
      { ...watch(options), giveUp: () => abortRing(ring) },
    )) as [InflateAnswer, ApplyAnswer];
    return { ...applied, inflated };
  } catch (error) {
    abortRing(ring);
    await watching;
    // Where all the others only gave up, it was the hashing that failed.
    const gaveUp = options.signal?.aborted !== true && isStorageError(error, 'canceled');
    throw gaveUp ? (failure?.error ?? error) : error;
  } finally {
    await watching;
  }
}

/** Unpacks what another layer's changes are packed into, at the same time. */
export async function unpackPacked(
  threads: Threads,
  packing: (ring: RingMemory) => PackRequest,
  request: UnpackRequest,
  options: ApplyOptions,
): Promise<ApplyAnswer> {
  const ring = ringMemory();
  const [skipped, applied] = (await threads.jobs.runTogether(
    [
      { name: 'pack', request: packing(ring) },
      {
        name: 'apply',
        request: { ...request, from: { kind: 'ring', ring }, zerosAreHoles: true } satisfies ApplyRequest,
      },
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
