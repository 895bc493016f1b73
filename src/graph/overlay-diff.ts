import { IDENTITY } from '../base/id-map.ts';
import type { Job } from '../base/pool.ts';
import type { RingMemory } from '../base/ring.ts';
import type { Abortable, ByteStream, Change } from '../base/values.ts';
import type { IndexPlace } from '../diff/indexed.ts';
import type { Mount } from '../mount/mount.ts';
import { fromRaw, type RawMount, readingPlan, upperDirectory } from '../mount/raw.ts';
import type { Noting } from './apply.ts';
import { listedBy } from './changes.ts';
import type { PackRequest } from './jobs/compare.ts';
import type { Views } from './jobs/views.ts';
import { scratchDirectory } from './scratch.ts';
import type { ListOptions } from './storage-driver.ts';
import { jobStream, noting } from './streams.ts';
import { openThreads, type Threads } from './threads.ts';

// The differ without a driver: what two mounts, as a snapshotter hands them out, differ in.

/** How two mounts are compared. */
export interface OverlayDiffOptions extends Abortable {
  /** true: both trees are compared, whatever the mounts say of their layers. */
  readonly walk?: boolean;
}

/** How they are listed. */
export interface OverlayListOptions extends OverlayDiffOptions, ListOptions {
  /** As `ahead.here` of a store. */
  readonly here?: boolean;
}

/**
 * What `upper` changes of `lower`, depth first, names by bytes, a directory before its children. Nothing is written,
 * not even what a mount of the upper would. `unsupported` where the mounts do not tell the upper directory (see
 * `upperDirectory`), or fuse-overlayfs wrote it; `walk` compares the trees then. `corrupt`: what a mark of the upper
 * leads to (a moved directory, the data of a file) is in no layer below.
 */
export async function* upperChanges(
  lower: readonly RawMount[],
  upper: readonly RawMount[],
  options: OverlayListOptions = {},
): AsyncGenerator<Change, void, undefined> {
  const { rendering = 'core', renames, signal } = options;
  const batches = withThreads(lower, upper, options, (threads, views) => {
    return listedBy(threads, { views, rendering, renames: renames === 'collapse' }, signal);
  });
  for await (const batch of batches) yield* batch;
}

/** As `upperChanges`, as a layer tar. */
export async function* writeUpperdir(
  lower: readonly RawMount[],
  upper: readonly RawMount[],
  options: OverlayDiffOptions & Noting & { readonly xattrs?: 'all' | 'docker' } = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const { xattrs = 'all', signal } = options;
  yield* withThreads(lower, upper, options, (threads, views): ByteStream => {
    const request = (ring: RingMemory): PackRequest => ({
      of: views,
      ids: IDENTITY,
      xattrs,
      to: { kind: 'ring', ring },
    });
    const job = (ring: RingMemory): Job => ({ name: 'pack', request: request(ring) });
    return jobStream(threads.jobs, job, { signal, ...noting(options) });
  });
}

async function* withThreads<T>(
  lower: readonly RawMount[],
  upper: readonly RawMount[],
  options: OverlayListOptions,
  run: (threads: Threads, views: Views) => AsyncIterable<T>,
): AsyncGenerator<T, void, undefined> {
  const trees = options.walk === true ? wholeTrees(lower, upper) : layered(lower, upper);
  await using threads = await openThreads(undefined, { here: options.here ?? false });
  using scratch = scratchDirectory();
  const index = { ...indexOf('view', upper), ...indexOf('base', lower) };
  yield* run(threads, { ...trees, index, scratch: scratch.path });
}

/** What nobody switched off may be on by the kernel's default. */
function indexOf(of: 'view' | 'base', [raw]: readonly RawMount[]): Views['index'] {
  const plan = raw === undefined ? undefined : fromRaw(raw);
  if (plan?.type !== 'overlay' || plan.index === 'off') return undefined;
  const { upper, work, lower: lowers, userxattr } = plan;
  if (upper === undefined || work === undefined) return undefined;
  const style = userxattr ? 'overlay-userxattr' : 'overlay';
  return { [of]: { work, upper, lowers, style } satisfies IndexPlace };
}

function layered(lower: readonly RawMount[], upper: readonly RawMount[]): Omit<Views, 'scratch'> {
  const directory = upperDirectory(lower, upper);
  const above = fromRaw(upper[0] as RawMount);
  const view = readingPlan(above);
  if (lower[0] === undefined || above.type === 'bind') return { view };
  const style = above.userxattr ? 'overlay-userxattr' : 'overlay';
  const base = readingPlan(fromRaw(lower[0]));
  return { view, base, upper: { upper: directory, style, noIndex: above.index === 'off', foreign: true } };
}

function wholeTrees(lower: readonly RawMount[], upper: readonly RawMount[]): Omit<Views, 'scratch'> {
  const [view] = upper.map((raw): Mount => readingPlan(fromRaw(raw)));
  const [base] = lower.map((raw): Mount => readingPlan(fromRaw(raw)));
  if (view === undefined || upper.length > 1 || lower.length > 1) upperDirectory(lower, upper); // says what is wrong
  return { view: view as Mount, ...(base === undefined ? {} : { base }) };
}
