import type { ByteString } from '../base/bytes.ts';
import type { Change } from '../base/values.ts';
import { Descent } from '../fs/descent.ts';
import { isDirectory, isWhiteout } from '../fs/stat.ts';
import { overlayMarks, showsItself, type WhiteoutStyle } from '../fs/whiteouts.ts';
import {
  type BriefStat,
  type DirectoryEntry,
  DT_BLK,
  DT_DIR,
  DT_FIFO,
  DT_LNK,
  DT_SOCK,
  fstat,
  lstatat,
  lstatBriefly,
  readDirectory,
  type Stat,
} from '../linux/inode.ts';
import { ENOENT, located } from '../linux/libc.ts';
import { flistxattr } from '../linux/xattr.ts';
import { Comparer, decided, LinkGroups, SELF, sameInodeFields, type Verdict } from './compare.ts';
import { ofReading } from './reading.ts';
import type { Listing } from './types.ts';
import { BREATH, unlisted } from './walk.ts';

type Entry = Pick<DirectoryEntry, 'name' | 'type'>;

/** As a type: a name that the base alone has, in an opaque directory. */
const ABSENT = -1;

/** Types of what the view shows as it is in the upper, with no more to be asked. Files may be whiteouts by attribute, or without data. */
const PLAIN: ReadonlySet<number> = new Set([DT_LNK, DT_FIFO, DT_SOCK, DT_BLK]);

/** A directory on the way from the root to where the walk is. */
interface Level {
  readonly path: string;
  /** Sorted by bytes. */
  readonly entries: readonly Entry[];
  next: number;
  readonly attributes: readonly ByteString[];
  /** What the base has here, where that is a directory. */
  readonly before: Stat | undefined;
  /** The view shows nothing of the base here or below. */
  readonly opaque: boolean;
  listed: boolean;
}

export interface BriefOptions {
  readonly upper: ByteString;
  readonly style: Exclude<WhiteoutStyle, 'none'>;
  /** Called for each directory, before anything in it is looked at; what it throws ends the walk. */
  readonly entering: (fd: number, path: ByteString, listing: Listing) => void;
  /** Called at every entry; what it throws ends the walk. */
  readonly check: () => void;
  /** Takes what is found, in order. */
  readonly found: Change[];
}

/**
 * As `walkChanges` by a guide in Docker's rendering, for an upper in which no directory was moved, but kinds and paths
 * alone: of what is added little is asked, and of a directory in which something is listed nothing. Gives way now and
 * then, also where nothing is found for long.
 */
export function* walkBriefly(
  viewRoot: ByteString,
  baseRoot: ByteString,
  options: BriefOptions,
): Generator<undefined, void, undefined> {
  /** For errors. */
  const here = { path: '/' as ByteString };
  try {
    using view = Descent.open(viewRoot);
    using base = Descent.open(baseRoot);
    using upper = Descent.open(options.upper);
    yield* changesBelow({ view, base, upper }, options, here);
  } catch (error) {
    throw ofReading(located(error, here.path), here.path, viewRoot, options.upper);
  }
}

interface Trees {
  readonly view: Descent;
  readonly base: Descent;
  readonly upper: Descent;
}

function* changesBelow(
  { view, base, upper }: Trees,
  { style, entering, check, found: changes }: BriefOptions,
  here: { path: ByteString },
): Generator<undefined, void, undefined> {
  const comparer = new Comparer('docker');
  const groups = new LinkGroups();

  /** What is in the present directory. */
  const levelOf = (path: string, above: Level | undefined, before: Stat | undefined, listed: boolean): Level => {
    const { fd } = upper;
    const attributes = flistxattr(fd);
    const marks = overlayMarks(fd, above === undefined ? 'none' : style, attributes); // the kernel ignores the root's
    const entries: Entry[] = readDirectory(fd, path);
    const listing = {
      attributes,
      marks,
      get names() {
        return entries.map(({ name }) => name);
      },
    };
    entering(fd, (path || '/') as ByteString, listing);
    const opaque = above !== undefined && (above.opaque || marks.opaque);
    if (opaque && before !== undefined) {
      const names = new Set(listing.names);
      for (const name of base.names()) if (!names.has(name)) entries.push({ name, type: ABSENT });
    }
    entries.sort((one, other) => (one.name < other.name ? -1 : 1));
    return { path, entries, next: 0, attributes, before, opaque, listed };
  };

  /** What the view shows under a name that has something else than a directory in the upper. */
  const shown = <T extends BriefStat>(path: ByteString, own: T | undefined): T | Stat | undefined => {
    if (own !== undefined && isWhiteout(own)) return undefined;
    if (own !== undefined && showsItself(own)) return own;
    view.moveTo(namesOf(path).slice(0, -1));
    const stat = view.stat(nameOf(path), ENOENT);
    return stat === undefined || isWhiteout(stat) ? undefined : stat;
  };

  const compare = (path: ByteString, now: Stat, before: Stat): Verdict => {
    if (now.nlink > 1 && !isDirectory(now) && groups.joins(now, before)) return false;
    const name = nameOf(path);
    const contents = {
      get fd(): number {
        view.moveTo(namesOf(path).slice(0, -1));
        return view.fd;
      },
    };
    return comparer.compare({ at: upper, name, stat: now, contents }, { at: base, name, stat: before }, true);
  };

  const isEqualDirectory = ({ before, attributes }: Level): boolean => {
    const now = fstat(upper.fd);
    if (before === undefined || !sameInodeFields(now, before)) return false;
    const name = SELF;
    return comparer.equal({ at: upper, name, stat: now, attributes }, { at: base, name, stat: before });
  };

  const stack = [levelOf('', undefined, fstat(base.fd), true)];
  let count = 0;
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const entry = level.entries[level.next++];
    if (entry === undefined) {
      here.path = level.path as ByteString;
      if (!level.listed && !isEqualDirectory(level)) changes.push(...unlisted(stack).map(modified));
      stack.pop();
      if (stack.length === 0) return;
      upper.leave();
      if (level.before !== undefined) base.leave();
      continue;
    }
    const { name, type } = entry;
    const path = `${level.path}/${name}` as ByteString;
    here.path = path;
    check();
    if (++count % BREATH === 0) yield;
    const found = level.before === undefined ? undefined : base.stat(name, ENOENT);
    const before = found === undefined || isWhiteout(found) ? undefined : found;
    const isBelow = before !== undefined && isDirectory(before);
    let kind: Change['kind'] | undefined;
    let entered = type === DT_DIR;
    if (type === ABSENT) kind = before === undefined ? undefined : 'delete';
    else if (!entered && before === undefined && PLAIN.has(type)) kind = 'add';
    else if (!entered && before === undefined) {
      const own = lstatBriefly(upper.fd, name, ENOENT);
      entered = own !== undefined && isDirectory(own);
      if (!entered && shown(path, own) !== undefined) kind = 'add';
    } else if (!entered && before !== undefined) {
      const own = lstatat(upper.fd, name, ENOENT);
      entered = own !== undefined && isDirectory(own);
      const now = entered ? undefined : shown(path, own);
      if (now !== undefined) {
        const same = compare(path, now, before);
        kind = (typeof same === 'boolean' ? same : yield* decided(same, check)) ? undefined : 'modify';
      } else if (!entered) kind = 'delete';
    }
    if (entered && !isBelow) kind = before === undefined ? 'add' : 'modify';
    if (kind !== undefined) {
      for (const above of unlisted(stack)) changes.push(modified(above));
      changes.push({ kind, path });
    }
    if (!entered) continue;
    upper.enter(name);
    if (isBelow) base.enterLater(name);
    stack.push(levelOf(path, level, isBelow ? before : undefined, kind !== undefined));
  }
}

function modified({ path }: Level): Change {
  return { kind: 'modify', path: path as ByteString };
}

function namesOf(path: ByteString): ByteString[] {
  return path.slice(1).split('/') as ByteString[];
}

function nameOf(path: ByteString): ByteString {
  return path.slice(path.lastIndexOf('/') + 1) as ByteString;
}
