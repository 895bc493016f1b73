import type { ByteString } from '../base/bytes.ts';
import { Descent } from '../fs/descent.ts';
import { isDirectory, sameInode } from '../fs/stat.ts';
import { isRedirected, overlayPrefix, showsItself, type WhiteoutStyle } from '../fs/whiteouts.ts';
import { xattrsOfFd } from '../fs/xattrs.ts';
import { fstat, lstatat, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, openat, type Stat } from '../linux/inode.ts';
import { ELOOP, ENOENT, ENOTDIR, located } from '../linux/libc.ts';
import { type LevelBelow, present, statBelow, unlessWhiteout } from './below.ts';
import { carryLinked, isLinked, type Unlisted } from './carry.ts';
import { Comparer, decided, LinkGroups, SELF } from './compare.ts';
import { listingOf, union } from './listing.ts';
import { ofReading } from './reading.ts';
import type { Difference, Listed, Listing, Rendering, WalkOptions } from './types.ts';

/** After so many names the asker may do something else. */
export const BREATH = 64;

/** The kernel stamps inodes with a clock that ticks every 1 to 10 ms (ktime_get_coarse): this much behind ours, at most. */
const TICK_NS = 20_000_000n;

/**
 * The changes from the tree `base` (undefined: nothing) to the tree `view`: two mounted or plain trees, read side by
 * side. Never follows symlinks; a device 0:0 in either is the absence of that name. Holds a sorted listing for each
 * level and a record for each inode with several names. Stats are what the view shows.
 */
export function* walkChanges(
  view: ByteString,
  base: ByteString | undefined,
  rendering: Rendering,
  options: WalkOptions = {},
): Generator<Listed, void, undefined> {
  for (const step of walkChangesInPieces(view, base, rendering, options)) if (step !== undefined) yield step;
}

/** As `walkChanges`; undefined now and then, also where nothing is found for long. */
export function* walkChangesInPieces(
  ...[view, base, rendering, options = {}]: Parameters<typeof walkChanges>
): Generator<Listed | undefined, void, undefined> {
  for (const step of walkSteps(view, base, rendering, options)) {
    if (step?.kind !== 'carried' && step?.kind !== 'unlisted' && step?.kind !== 'implied') yield step;
  }
}

/** As `walkChanges` in the core rendering, with everything else that the archive of the changes holds. */
export function* walkDifferences(
  view: ByteString,
  base: ByteString | undefined,
  options: WalkOptions = {},
): Generator<Difference, void, undefined> {
  for (const step of walkDifferencesInPieces(view, base, options)) if (step !== undefined) yield step;
}

/** As `walkDifferences`; undefined now and then, also where nothing is found for long. */
export function walkDifferencesInPieces(
  ...[view, base, options = {}]: Parameters<typeof walkDifferences>
): Generator<Difference | undefined, void, undefined> {
  return carryLinked(() => walkSteps(view, base, 'core', options));
}

/** A directory on the way from the root to where the walk is. */
interface Level extends LevelBelow {
  /** Empty for the root. */
  readonly path: string;
  /** Of what the base has in its place: the same but below a renamed directory. */
  readonly basePath: string;
  readonly names: readonly ByteString[];
  /** What a look a moment ago saw of them. */
  readonly stats: Listing['stats'];
  next: number;
  /** Absent where it was implied. */
  readonly stat?: Stat;
  readonly inUpper: boolean;
  /** The directory itself may have been moved here: what looks equal below it may be another's. */
  readonly moved: boolean;
  /** What lies here in the upper is what the view shows, over the same directory of the base or over nothing. */
  readonly told: boolean;
  /** Where told: the view shows nothing of the base here or below. */
  readonly opaque: boolean;
  /** The view shows another directory of the layers below than the base has here. */
  readonly elsewhere: boolean;
  listed: boolean;
  /** How many steps were told before it. */
  readonly implied?: number;
}

function* walkSteps(
  viewRoot: ByteString,
  baseRoot: ByteString | undefined,
  rendering: Rendering,
  options: WalkOptions,
): Generator<Difference | Unlisted | undefined, void, undefined> {
  /** For errors. */
  const here = { path: '/' as ByteString };
  try {
    using view = Descent.open(viewRoot);
    using base = baseRoot === undefined ? undefined : Descent.open(baseRoot);
    using upper = options.upper === undefined ? undefined : Descent.open(options.upper);
    if (rootDiffers(view, base, options)) {
      yield { kind: 'carried', because: 'root', path: '/' as ByteString, stat: fstat(view.fd) };
    }
    yield* stepsBelow({ view, base, upper, path: '', basePath: '' }, rendering, { ...options, baseRoot }, here);
  } catch (error) {
    throw ofReading(located(error, here.path), here.path, viewRoot, options.upper);
  }
}

/** Where a walk begins: three places that belong together, and what they are called. */
interface Start {
  readonly view: Descent;
  readonly base: Descent | undefined;
  readonly upper: Descent | undefined;
  readonly path: string;
  readonly basePath: string;
}

function* stepsBelow(
  { view, base, upper, path: startPath, basePath: startBasePath }: Start,
  rendering: Rendering,
  options: WalkOptions & { readonly baseRoot: ByteString | undefined },
  here: { path: ByteString },
): Generator<Difference | Unlisted | undefined, void, undefined> {
  const movedAway = new Set(options.renames?.values());
  const comparer = new Comparer(rendering);
  const groups = new LinkGroups();
  const touchedNs = options.createdNs === undefined ? undefined : options.createdNs - TICK_NS;

  // With an upper: the very inode of the layers below, which nothing can have changed. Its ctime alone would not do (a
  // copy-up may fall into the same tick). Not below a renamed directory, which shows another's files: there number and
  // ctime may be those of an inode of another filesystem (a copied image).
  const untouched = (now: Stat, before: Stat, name: ByteString, level: Level): boolean =>
    upper !== undefined &&
    !level.elsewhere &&
    now.ino === before.ino &&
    now.inoLow === before.inoLow &&
    now.ctimeNs === before.ctimeNs &&
    !(level.inUpper && lstatat(upper.fd, name, ENOENT) !== undefined);
  const inDoubt = (now: Stat, level: Level): boolean =>
    upper !== undefined || touchedNs === undefined || level.moved || now.ctimeNs > touchedNs;

  /** Of a directory that the base has, by the upper's mark of where it was copied from; undefined where that does not tell. */
  const copied = (level: Level, path: ByteString): Listing | undefined => {
    const isSimple = level.told && level.inBase && !level.opaque && level.isBelow !== false;
    const listing = isSimple ? options.listings?.get(path) : undefined;
    if (listing === undefined || listing.marks.opaque || listing.marks.redirect) return undefined;
    return listing.attributes.includes(origin) ? listing : undefined;
  };
  const below = (name: ByteString): Stat | undefined => (base === undefined ? undefined : statBelow(base, stack, name));
  const origin = `${overlayPrefix(options.guide ?? 'none')}origin` as ByteString;
  /** What there is to tell of a directory that was implied, and in which nothing was told. */
  const late = ({ path }: Level): Difference | undefined => {
    const name = path.slice(path.lastIndexOf('/') + 1) as ByteString;
    const stat = upper?.stat(name, ENOENT);
    if (base === undefined || upper === undefined || stat === undefined || !isDirectory(stat)) return undefined;
    const step = { path: path as ByteString, stat, itself: true, early: true };
    const before = below(name);
    if (before === undefined) return { kind: 'add', ...step };
    if (!comparer.equal({ at: upper, name, stat }, { at: base, name, stat: before }))
      return { kind: 'modify', ...step };
    return stat.mtimeNs === before.mtimeNs ? undefined : { kind: 'carried', because: 'times', ...step };
  };

  const guided = options.guide !== undefined && base !== undefined && upper !== undefined;
  const read = (from: Descent, path: ByteString, style: WhiteoutStyle | undefined): Listing => {
    const listing = options.listings?.get(path) ?? listingOf(from, style);
    options.entering?.(from.fd, path, listing);
    return listing;
  };
  const listed = guided ? read(upper, (startPath || '/') as ByteString, 'none') : undefined;
  const first: Level = {
    path: startPath,
    basePath: startBasePath,
    names: listed?.names ?? union(view.names(), base),
    stats: listed?.stats,
    next: 0,
    stat: fstat(view.fd),
    inBase: base !== undefined,
    inUpper: upper !== undefined,
    moved: false,
    told: guided, // the kernel ignores marks of a layer's root
    opaque: false,
    elsewhere: false,
    listed: true,
  };
  const stack = [first];
  let count = 0;
  let steps = 0;
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const name = level.names[level.next++];
    if (name === undefined) {
      stack.pop();
      if (stack.length === 0) return;
      view.leave();
      if (level.inBase) base?.leave();
      if (level.inUpper) upper?.leave();
      const step = level.implied === steps ? late(level) : undefined;
      if (step !== undefined) {
        steps++;
        yield step;
      }
      continue;
    }
    const path = `${level.path}/${name}` as ByteString;
    here.path = path;
    options.check?.();
    if (++count % BREATH === 0) yield;
    const implied = options.parentsImplied === true ? copied(level, path) : undefined;
    if (implied !== undefined) {
      yield { kind: 'implied', path, itself: true, early: true };
      view.enterLater(name);
      upper?.enterLater(name);
      base?.enterLater(name);
      const { names, stats } = implied;
      const basePath = `${level.basePath}/${name}`;
      const { stat: _, ...above } = level; // it is in all three trees as what is above it
      stack.push({
        ...above,
        path,
        basePath,
        names,
        stats,
        next: 0,
        listed: false,
        implied: steps,
        isBelow: undefined,
      });
      continue;
    }
    const seen = level.told ? level.stats?.[level.next - 1] : undefined;
    const own = seen ?? (level.told ? upper?.stat(name, ENOENT) : undefined);
    const itself = own !== undefined && showsItself(own);
    const early = itself && seen !== undefined;
    const now = itself ? unlessWhiteout(own) : present(view, name);
    const basePath = `${level.basePath}/${name}` as ByteString;
    let before = below(name);
    if (movedAway.has(basePath)) {
      if (before !== undefined && rendering === 'docker') yield* ancestors(stack);
      before = undefined; // listed as a rename, from where it is now
    }
    if (now === undefined && before === undefined) continue;
    const from = options.renames?.get(path);
    if (from !== undefined && now !== undefined) {
      if (rendering === 'docker') yield* ancestors(stack);
      if (before !== undefined) yield { kind: 'delete', path };
      yield { kind: 'rename', path, from, stat: now };
      yield* renamed({ view, upper, name, path, from }, now, rendering, options, here);
      continue;
    }

    // By their descriptors, which are needed in any case, attributes are read in half the time.
    const entered = itself && upper !== undefined && areDirectories(now, before);
    /** A directory of the upper whose list is there: nothing is asked of it that needs it open. */
    const isKnown = itself && options.listings?.has(path) === true;
    if (entered) {
      view.enterLater(name);
      if (isKnown) upper.enterLater(name);
      else upper.enter(name);
      base?.enterLater(name);
    }
    const ahead = entered ? read(upper, path, options.guide) : undefined;
    let step: Difference | Unlisted | undefined;
    if (now === undefined) step = { kind: 'delete', path, itself };
    else if (before === undefined || base === undefined) step = { kind: 'add', path, stat: now, itself, early };
    else {
      const joins = isLinked(now) && groups.joins(now, before);
      const one = {
        at: itself && upper !== undefined ? upper : view,
        name: entered ? SELF : name,
        stat: now,
        attributes: ahead?.attributes,
        contents: view,
      };
      const other = { at: base, name: entered ? SELF : name, stat: before };
      const same =
        (!itself && untouched(now, before, name, level)) || comparer.compare(one, other, inDoubt(now, level));
      if (joins || !(typeof same === 'boolean' ? same : yield* decided(same, options.check))) {
        step = { kind: 'modify', path, stat: now, itself, early };
      } else if (isLinked(now)) step = { kind: 'unlisted', path, stat: now };
      else if (isDirectory(now) && now.mtimeNs !== before.mtimeNs) {
        step = { kind: 'carried', because: 'times', path, stat: now, itself, early };
      }
    }
    const isListed = step !== undefined && step.kind !== 'carried' && step.kind !== 'unlisted';
    if (isListed && rendering === 'docker') yield* ancestors(stack);
    if (step !== undefined && step.kind !== 'unlisted') steps++;
    if (step !== undefined) yield step;

    if (now === undefined || !isDirectory(now)) continue;
    if (before !== undefined && sameInode(now, before)) continue;
    if (!entered && itself) view.enterLater(name);
    else if (!entered && view.enter(name, ENOENT) < 0) continue;
    const inBase = entered || (before !== undefined && isDirectory(before) && base?.enter(name, ENOENT) === 0);
    if (!entered && isKnown) upper?.enterLater(name);
    const inUpper = entered || isKnown || (level.inUpper && upper?.enter(name, ENOENT, ENOTDIR, ELOOP) === 0);
    const other = inBase ? base : undefined;
    const isTold = level.told && inUpper && upper !== undefined;
    const listing = ahead ?? (isTold ? read(upper, path, options.guide) : undefined);
    const told = listing?.marks.redirect === false;
    const opaque = level.opaque || listing?.marks.opaque === true;
    const names = told ? union(listing.names, opaque ? other : undefined) : union(view.names(), other);
    stack.push({
      path,
      basePath,
      names,
      stats: names === listing?.names ? listing.stats : undefined,
      next: 0,
      stat: now,
      inBase,
      inUpper,
      told,
      opaque,
      elsewhere:
        level.elsewhere || (inUpper && upper !== undefined && (listing?.marks.redirect ?? isRedirected(upper.fd))),
      // A rename stamps the inode's ctime alone; what is done inside a directory stamps mtime as well.
      moved: level.moved || (touchedNs !== undefined && now.ctimeNs > touchedNs && now.ctimeNs !== now.mtimeNs),
      listed: isListed,
    });
  }
}

/** Where a directory is that was moved. */
interface Moved {
  /** The directory that it is in. */
  readonly view: Descent;
  readonly upper: Descent | undefined;
  readonly name: ByteString;
  readonly path: ByteString;
  readonly from: ByteString;
}

/** What a renamed directory, and what is in it, differ in from what it was. */
function* renamed(
  moved: Moved,
  now: Stat,
  rendering: Rendering,
  options: WalkOptions & { readonly baseRoot: ByteString | undefined },
  here: { path: ByteString },
): Generator<Difference | Unlisted | undefined, void, undefined> {
  const { name, path, from } = moved;
  const open = (at: Descent): Descent => new Descent(openat(at.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  using base = Descent.open(options.baseRoot as ByteString);
  base.moveTo(from.slice(1).split('/') as ByteString[]);
  using view = open(moved.view);
  using upper = moved.upper === undefined ? undefined : open(moved.upper);
  const before = { at: base, name: SELF, stat: fstat(base.fd) };
  if (!new Comparer(rendering).equal({ at: view, name: SELF, stat: now }, before)) {
    yield { kind: 'modify', path, stat: now };
  }
  yield* stepsBelow({ view, base, upper, path, basePath: from }, rendering, options, here);
}

/** The directories above a change that were not listed themselves, topmost first (not the root); now they are. */
export function unlisted<T extends { listed: boolean }>(stack: readonly T[]): readonly T[] {
  let first = stack.length;
  while (first > 0 && stack[first - 1]?.listed === false) first--;
  const found = first === stack.length ? NONE : stack.slice(first);
  for (const level of found) level.listed = true;
  return found;
}

const NONE: readonly never[] = [];

function* ancestors(stack: readonly Level[]): Generator<Listed, void, undefined> {
  for (const { path, stat } of unlisted(stack)) {
    yield { kind: 'modify', path: path as ByteString, ...(stat === undefined ? {} : { stat }) };
  }
}

function areDirectories(now: Stat | undefined, before: Stat | undefined): boolean {
  return now !== undefined && before !== undefined && isDirectory(now) && isDirectory(before);
}

/** Whether the root must be in the archive: its times alone are no reason (they change with every entry). */
function rootDiffers(view: Descent, base: Descent | undefined, options: WalkOptions): boolean {
  const name = '.' as ByteString;
  const stat = fstat(view.fd);
  if (base !== undefined) {
    const before = { at: base, name, stat: fstat(base.fd) };
    return !new Comparer('core').equal({ at: view, name, stat }, before);
  }
  // What an archive without `./` makes (driver-behaviour D9b).
  const { uid, gid } = options.rootPair ?? { uid: 0, gid: 0 };
  return (stat.mode & 0o7777) !== 0o755 || stat.uid !== uid || stat.gid !== gid || xattrsOfFd(view.fd).size > 0;
}
