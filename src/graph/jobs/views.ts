import { type ByteString, joinBytes } from '../../base/bytes.ts';
import type { JobContext } from '../../base/pool.ts';
import type { IndexPlace } from '../../diff/indexed.ts';
import type { WalkOptions } from '../../diff/types.ts';
import { type CheckedUpper, checkUpper, type LinkCounting, type UpperReading, whyNotUpper } from '../../diff/upper.ts';
import { AT_FDCWD, mkdirat } from '../../linux/inode.ts';
import { mount } from '../../linux/mount.ts';
import type { Mount } from '../../mount/mount.ts';
import { performMount } from '../../mount/perform.ts';
import { showIndexed } from './indexed.ts';
import type { Entered, Jail } from './jail.ts';

/** Two trees to compare, as plans: they are mounted where only the job sees them, and vanish with it. */
export interface Views {
  /** Read-only. */
  readonly view: Mount;
  /** Read-only; absent: compared with nothing. */
  readonly base?: Mount;
  /** The upper directory of the view, where the base is what lies below it. */
  readonly upper?: UpperReading;
  /** Why the upper does not tell what changed, where that is known before. */
  readonly whole?: string;
  /** Of those that may have an index. */
  readonly index?: { readonly view?: IndexPlace; readonly base?: IndexPlace };
  /** Where there is no upper: when the layer was made. */
  readonly createdNs?: bigint;
  /** A directory that exists; what is in it is hidden from the job. */
  readonly scratch: ByteString;
}

/** The trees where they are mounted. */
export interface Places {
  /** They are mounted, where this thread alone is. */
  readonly mounted?: true;
  readonly view: ByteString;
  readonly base: ByteString | undefined;
  /** The upper without what somebody mounted inside it: the view shows none of that. */
  readonly upper: UpperReading | undefined;
  /** A name that shows something of an index. */
  readonly indexed?: ByteString;
}

/** Mounts them for `task`. */
export function withViews<T>(views: Views, jail: Jail, task: (places: Places) => T): T {
  using entered = enterViews(views, jail);
  return task(entered.places);
}

/** What `enterViews` made. */
export interface EnteredViews extends Entered {
  readonly places: Places;
}

/** Mounts them until disposed of. */
export function enterViews(views: Views, jail: Jail): EnteredViews {
  const inPlace = placesOf(views);
  const entered = jail.enterPrivately(inPlace !== undefined);
  const nothing = (): void => {};
  if (entered === undefined) {
    return { places: inPlace as Places, leave: nothing, enter: nothing, forget: nothing, [Symbol.dispose]: nothing };
  }
  try {
    return { ...entered, places: mountViews(views) };
  } catch (error) {
    entered[Symbol.dispose]();
    throw error;
  }
}

function mountViews(views: Views): Places {
  const none = 'none' as ByteString;
  mount(none, views.scratch, 'tmpfs' as ByteString, 0, 'mode=700,size=64k' as ByteString);
  const place = (name: string, plan: Mount): ByteString => {
    const path = joinBytes(views.scratch, name as ByteString);
    mkdirAt(path);
    performMount(plan, path);
    return path;
  };
  /** A single layer shows its own marks where it is bound; as an overlay it shows what the view makes of them. */
  const asOverlay = (plan: Mount): Mount => {
    if (plan.type !== 'bind' || views.view.type !== 'overlay') return plan;
    const nothing = joinBytes(views.scratch, 'nothing' as ByteString);
    mkdirAt(nothing);
    const { upper: _, work: __, short: ___, lower: ____, ...reading } = views.view;
    return { ...reading, lower: [plan.source, nothing] };
  };
  const { upper, index } = views;
  const view = place('view', views.view);
  const base = views.base === undefined ? undefined : place('base', asOverlay(views.base));
  const shown = (of: 'view' | 'base', tree: ByteString | undefined): ByteString | undefined => {
    if (index?.[of] === undefined || tree === undefined) return undefined;
    const scratch = joinBytes(views.scratch, `index-${of}` as ByteString);
    mkdirAt(scratch);
    return showIndexed(index[of], tree, scratch);
  };
  const [inView, inBase] = [shown('view', view), shown('base', base)];
  const indexed = inView ?? inBase;
  return {
    mounted: true,
    view,
    base,
    ...(indexed === undefined ? {} : { indexed }),
    upper:
      upper === undefined
        ? undefined
        : { ...upper, upper: place('upper', { type: 'bind', source: upper.upper, readonly: true }) },
  };
}

/** Where plain directories lie: they can be read as they are, with what somebody mounted in them. */
function placesOf({ view, base, upper }: Views): Places | undefined {
  if (view.type !== 'bind' || upper !== undefined || (base !== undefined && base.type !== 'bind')) return undefined;
  return { view: view.source, base: base?.source, upper };
}

function mkdirAt(path: ByteString): void {
  mkdirat(AT_FDCWD, path, 0o700);
}

interface Asked extends LinkCounting {
  /** A rename is one line, whatever other names the files in it have. */
  readonly renames?: boolean;
}

/** The cheapest way that finds everything. */
export function walkOptions(views: Views, places: Places, context: JobContext, asked: Asked = {}): WalkOptions {
  const { createdNs } = views;
  const { base, upper } = places;
  const check = (): void => context.check();
  if (upper === undefined) return createdNs === undefined ? { check } : { check, createdNs };
  const checked = base === undefined ? undefined : checkUpper(base, upper, check);
  if (reasonToWalk(views, places, { ...asked, check }, checked) !== undefined) return { check, upper: upper.upper };
  return { check, upper: upper.upper, guide: upper.style, ...(checked && { listings: checked.listings }) };
}

/** Why the upper does not tell what differs; undefined where it does, or where there is none. */
export function reasonToWalk(
  { whole }: Views,
  { view, base, upper, indexed }: Places,
  { renames = false, ...counting }: Asked,
  checked?: CheckedUpper,
): string | undefined {
  if (whole !== undefined || upper === undefined) return whole;
  if (indexed !== undefined) return `${indexed} is not in the upper directory, and shows what is in its index`;
  const { redirects } =
    checked ?? (base === undefined ? { redirects: undefined } : checkUpper(base, upper, counting.check));
  return whyNotUpper(view, upper, redirects === undefined ? undefined : redirects && !renames, counting);
}
