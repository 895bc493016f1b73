import { type ByteString, quote } from '../base/bytes.ts';
import { type IdMaps, toHost } from '../base/id-map.ts';
import { LowerView } from '../fs/lower-view.ts';
import { Root } from '../fs/rooted.ts';
import { isDirectory, isWhiteout, sameInode, typeOf } from '../fs/stat.ts';
import { walkTree } from '../fs/walk.ts';
import {
  OPAQUE,
  overlayMarks,
  overlayPrefix,
  parseWhiteout,
  type Whiteout,
  type WhiteoutStyle,
} from '../fs/whiteouts.ts';
import { ACL_ACCESS, keepXattr, mapXattrs, viaProc, type Xattrs, xattrsOf } from '../fs/xattrs.ts';
import {
  AT_FDCWD,
  close,
  fstat,
  lstatat,
  O_DIRECTORY,
  O_PATH,
  O_RDONLY,
  readlinkat,
  type Stat,
} from '../linux/inode.ts';
import { ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR } from '../linux/libc.ts';
import type { TarEntry, TarSink } from '../tar/types.ts';
import { baseName, cleanName, joinPath, parentPath } from './names.ts';
import { PathSet } from './path-set.ts';
import { Trial } from './trial.ts';

// Compares a layer's tree with the archive that it was unpacked from: what each entry says of type, mode, owner, size,
// time, attributes, device, target and links, and that nothing else is there. Contents are not read. The archive is one
// that its record gives back: no file or directory of it was replaced by a later entry.

/** Where the tree is not as the archive says. */
export interface TreeFault {
  /** Without symlinks; the root's is empty. */
  readonly path: ByteString;
  /** `it is gone`, `its mode is 755 instead of 644, …` */
  readonly what: string;
}

export interface AuditOptions {
  readonly ids: IdMaps;
  /** The trees below, top first. */
  readonly lowers: readonly ByteString[];
  /** `none`: the tree is a copy of the first lower, with the layer merged in. */
  readonly whiteouts: WhiteoutStyle;
}

const HERE = '.' as ByteString;
const ROOT = '' as ByteString;
/** More are counted, not kept. */
const FAULTS_MAX = 1000;

interface Place {
  readonly fd: number;
  readonly path: ByteString;
}

export class TreeAudit implements TarSink, Disposable {
  readonly #options: AuditOptions;
  readonly #rootPath: ByteString;
  readonly #root: Root;
  /** As the kernel shows it. */
  readonly #real: ByteString;
  readonly #below: LowerView | undefined;
  /** What the archive makes, and the directories that lead there. */
  readonly #known = new PathSet();
  readonly #deleted = new PathSet();
  /** Directories that the archive marks as opaque. */
  readonly #opaque = new PathSet();
  readonly #faults = new Map<ByteString, string>();
  /** Faults of symlinks, which a later entry may explain. */
  readonly #links = new Set<ByteString>();
  /** Faulty hard links by what they are no link to, which a later entry may have replaced. */
  readonly #linksTo = new Map<ByteString, ByteString[]>();
  /** Some name leads through a symlink: directories on its way may be nobody's entry. */
  #led = false;
  #uncounted = 0;
  /** The archive replaced a symlink of its own: which directory a name of it meant cannot be told any more. */
  #unclear = false;
  #rootIsOpaque = false;
  #last: { readonly asked: ByteString; readonly place: Place | undefined } | undefined;

  constructor(root: ByteString, options: AuditOptions) {
    this.#options = options;
    this.#rootPath = root;
    this.#root = Root.open(root);
    try {
      this.#real = this.#pathOf(this.#root.fd) ?? root;
      const { lowers, whiteouts } = options;
      this.#below = lowers.length === 0 ? undefined : new LowerView(lowers, whiteouts);
    } catch (error) {
      this.#root[Symbol.dispose]();
      throw error;
    }
  }

  raw(): void {}

  data(): void {}

  end(): void {}

  entry(entry: TarEntry): void {
    const path = cleanName(entry.name);
    if (entry.type === 'skipped' || isBookkeeping(path)) return;
    if (path === ROOT) {
      this.#judge(ROOT, entry, this.#compare(entry, fstat(this.#root.fd), this.#root.fd, HERE));
      return;
    }
    const place = this.#directory(parentPath(path));
    const name = baseName(path);
    const mark = parseWhiteout(name);
    if (mark !== undefined) {
      if (place !== undefined) this.#mark(mark, place);
      return;
    }
    // Device 0:0 is left out.
    if (entry.type.endsWith('-device') && entry.devMajor === 0 && entry.devMinor === 0) return;
    if (place === undefined) {
      this.#judge(path, entry, 'it is gone');
      return;
    }
    const own = joinPath(place.path, name);
    this.#known.add(own);
    const stat = lstatat(place.fd, name, ENOENT);
    if (stat === undefined || isWhiteout(stat)) this.#judge(own, entry, 'it is gone');
    else if (entry.type === 'hardlink') this.#judge(own, entry, this.#compareLink(own, entry, stat));
    else this.#judge(own, entry, this.#compare(entry, stat, place.fd, name));
  }

  #judge(path: ByteString, { type }: TarEntry, fault: string | undefined): void {
    // Of several entries the last counts.
    if (this.#links.delete(path)) this.#unclear = true;
    this.#faults.delete(path);
    for (const link of this.#linksTo.get(path) ?? []) this.#faults.delete(link);
    this.#linksTo.delete(path);
    if (fault === undefined) return;
    if (this.#faults.size >= FAULTS_MAX) this.#uncounted++;
    else this.#faults.set(path, fault);
    if (type === 'symlink') this.#links.add(path);
  }

  /** The directory that a cleaned path means; undefined where there is none. Valid until the next call. */
  #directory(path: ByteString): Place | undefined {
    if (path === ROOT) return { fd: this.#root.fd, path: ROOT };
    if (this.#last?.asked === path) return this.#last.place;
    this.#forget();
    const flags = O_PATH | O_DIRECTORY;
    const fd = this.#root.open(`${path}/` as ByteString, flags, 0, ENOENT, ENOTDIR, ELOOP); // the slash follows symlinks
    let place: Place | undefined;
    if (fd >= 0) {
      const real = this.#pathOf(fd);
      if (real === undefined || (real !== this.#real && !real.startsWith(`${this.#real}/`))) this.#unclear = true;
      place = { fd, path: (real ?? this.#real).slice(this.#real.length + 1) as ByteString };
      if (place.path !== path) this.#led = true;
      for (let up = place.path; up !== ROOT && !this.#known.has(up); up = parentPath(up)) this.#known.add(up);
    }
    this.#last = { asked: path, place };
    return place;
  }

  /** Undefined for a path beyond what the kernel tells. */
  #pathOf(fd: number): ByteString | undefined {
    return readlinkat(AT_FDCWD, `/proc/thread-self/fd/${fd}` as ByteString, ENAMETOOLONG);
  }

  #forget(): void {
    const fd = this.#last?.place?.fd;
    if (fd !== undefined) close(fd);
    this.#last = undefined;
  }

  #mark(mark: Whiteout, place: Place): void {
    if (mark.kind === 'opaque' && place.path === ROOT) this.#rootIsOpaque = true;
    else if (mark.kind === 'opaque') this.#opaque.add(place.path);
    if (mark.kind !== 'whiteout') return;
    const path = joinPath(place.path, mark.of);
    this.#deleted.add(path);
    const stat = lstatat(place.fd, mark.of, ENOENT);
    if (stat !== undefined || this.#options.whiteouts === 'none' || this.#below?.lookup(path) === undefined) return;
    if (!this.#isHidden(place.path)) this.#faults.set(path, 'it is deleted no more, and shows what lies below');
  }

  /** Whether an opaque directory of the layer hides what lies below at `path`. */
  #isHidden(path: ByteString): boolean {
    for (let at = path; at !== ROOT; at = parentPath(at)) {
      const fd = this.#root.open(at, O_RDONLY | O_DIRECTORY);
      try {
        if (overlayMarks(fd, this.#options.whiteouts).opaque) return true;
      } finally {
        close(fd);
      }
    }
    return false;
  }

  #compareLink(own: ByteString, entry: TarEntry, stat: Stat): string | undefined {
    const target = cleanName(entry.linkName);
    const place = this.#directory(parentPath(target));
    if (place === undefined) return `it is no hard link to ${quote(target)}, which is gone`;
    // It need be no entry: a lower layer's file is copied up for links to it.
    const there = joinPath(place.path, baseName(target));
    this.#known.add(there);
    const other = lstatat(place.fd, baseName(target), ENOENT);
    if (other !== undefined && sameInode(stat, other)) return undefined;
    const faulty = this.#linksTo.get(there) ?? [];
    faulty.push(own);
    this.#linksTo.set(there, faulty);
    return `it is no hard link to ${quote(target)}`;
  }

  #compare(entry: TarEntry, stat: Stat, dirFd: number, name: ByteString): string | undefined {
    const type = typeOf(stat.mode);
    if (type !== entry.type) return `it is a ${type} instead of a ${entry.type}`;
    const { ids } = this.#options;
    const differences: string[] = [];
    const differ = (what: string, now: string | number, wanted: string | number): void => {
      if (now !== wanted) differences.push(`its ${what} is ${now} instead of ${wanted}`);
    };
    differ('owner', stat.uid, toHost(entry.uid, ids.uid, 'user'));
    differ('group', stat.gid, toHost(entry.gid, ids.gid, 'group'));
    if (type === 'file') differ('size', stat.sizeBytes, entry.sizeBytes);
    if (type.endsWith('-device')) {
      differ('device', `${stat.rdevMajor}:${stat.rdevMinor}`, `${entry.devMajor}:${entry.devMinor}`);
    }
    if (type === 'symlink') differ('target', quote(readlinkat(dirFd, name) ?? ROOT), quote(entry.linkName));
    const wanted = kept(mapXattrs(entry.xattrs, ids, toHost));
    const trial = new Trial(this.#root.fd, entry, wanted);
    if (type !== 'symlink') {
      const mode = stat.mode & 0o7777;
      const would = wanted.has(ACL_ACCESS) ? (trial.made?.mode ?? mode) : entry.mode;
      differ('mode', mode.toString(8), would.toString(8));
    }
    if (stat.mtimeNs !== entry.mtimeNs) {
      const would = trial.made?.mtimeNs ?? stat.mtimeNs;
      differ('modification time', seconds(stat.mtimeNs), seconds(would));
    }
    const xattrs = xattrsOf(viaProc(dirFd, name));
    for (const key of new Set([...xattrs.keys(), ...wanted.keys()])) {
      const how = howDiffers(xattrs.get(key), wanted.get(key), () => trial.xattr(key, type));
      if (how !== undefined) differences.push(`its attribute ${quote(key)} ${how}`);
    }
    return differences.length === 0 ? undefined : differences.join(', ');
  }

  /** All entries are in: looks for what none of them made. Answers the faults by path, and how many more there are. */
  finish(): { readonly faults: readonly TreeFault[]; readonly more: number } {
    if (this.#unclear) return { faults: [], more: 0 };
    for (const { path, stat, dirFd, name } of walkTree(this.#rootPath)) {
      const own = path.slice(1) as ByteString;
      const fault = this.#isKnown(own, stat) ? this.#overlayFault(own, stat, dirFd, name) : this.#stranger(own, stat);
      if (fault === undefined) continue;
      if (this.#faults.size >= FAULTS_MAX) this.#uncounted++;
      else if (!this.#faults.has(own)) this.#faults.set(own, fault);
    }
    const faults = [...this.#faults].map(([path, what]) => ({ path, what }));
    return { faults: faults.sort((a, b) => (a.path < b.path ? -1 : 1)), more: this.#uncounted };
  }

  #isKnown(path: ByteString, stat: Stat): boolean {
    if (this.#known.has(path)) return true;
    if (this.#options.whiteouts === 'none' || !isWhiteout(stat)) return false;
    return this.#deleted.has(path) || (this.#rootIsOpaque && !path.includes('/'));
  }

  /** What overlayfs would read of an entry beside what it is: marks that the archive did not make, or that are gone. */
  #overlayFault(path: ByteString, stat: Stat, dirFd: number, name: ByteString): string | undefined {
    const prefix = overlayPrefix(this.#options.whiteouts);
    if (prefix === undefined || isWhiteout(stat)) return undefined;
    const marks = xattrsOf(viaProc(dirFd, name), (key) => key.startsWith(prefix));
    const opaque = marks.get(`${prefix}opaque` as ByteString)?.toString('latin1') === OPAQUE;
    for (const mark of ['redirect', 'metacopy', 'whiteout']) {
      if (marks.has(`${prefix}${mark}` as ByteString)) return `it is marked for overlayfs (${mark}), not by the layer`;
    }
    if (!isDirectory(stat)) return undefined;
    const hides = this.#opaque.has(path) || this.#deleted.has(path) || (this.#rootIsOpaque && !path.includes('/'));
    if (opaque && !hides) return 'it is marked as opaque, not by the layer';
    if (opaque || !hides || this.#isHidden(parentPath(path))) return undefined;
    const below = this.#below?.lookup(path);
    return below !== undefined && isDirectory(below.stat) ? 'it hides no more what lies below' : undefined;
  }

  #stranger(path: ByteString, stat: Stat): string | undefined {
    if (this.#led && this.#isImplied(path, stat)) return undefined;
    if (this.#options.whiteouts !== 'none') {
      return isWhiteout(stat) ? 'it is deleted, and not by the layer' : 'it was added';
    }
    // A copy of the parent's: there it is compared with its own record.
    const below = this.#below?.lookup(path);
    if (below === undefined) return 'it was added';
    if (this.#deleted.has(path)) return 'it is deleted no more';
    const same = below.stat.mode === stat.mode && below.stat.uid === stat.uid && below.stat.gid === stat.gid;
    const sameData = isDirectory(stat) || below.stat.sizeBytes === stat.sizeBytes;
    return same && sameData && below.stat.mtimeNs === stat.mtimeNs ? undefined : "it differs from the layer's parent";
  }

  /** A directory as unpacking makes them on the way to an entry: of no time, or as the one below. */
  #isImplied(path: ByteString, stat: Stat): boolean {
    return isDirectory(stat) && (stat.mtimeNs === 0n || this.#below?.lookup(path)?.stat.mtimeNs === stat.mtimeNs);
  }

  [Symbol.dispose](): void {
    this.#forget();
    this.#below?.[Symbol.dispose]();
    this.#root[Symbol.dispose]();
  }
}

/** `tried`: what the filesystem makes of the value that is wanted, undefined where it refuses it. */
function howDiffers(
  now: Buffer | undefined,
  wanted: Buffer | undefined,
  tried: () => Buffer | undefined,
): string | undefined {
  if (wanted === undefined) return 'was not there';
  if (now?.equals(wanted)) return undefined;
  const would = tried();
  if (now === undefined) return would === undefined ? undefined : 'is gone';
  return would !== undefined && now.equals(would) ? undefined : 'has another value';
}

/** aufs's own names are ignored with all below them. */
function isBookkeeping(path: ByteString): boolean {
  if (!path.includes('.wh..wh.')) return false;
  return (path.split('/') as ByteString[]).some((part) => parseWhiteout(part)?.kind === 'bookkeeping');
}

function kept(xattrs: Xattrs): Xattrs {
  return xattrs.size === 0 ? xattrs : new Map([...xattrs].filter(([name]) => keepXattr(name)));
}

/** Seconds since the epoch with all that is below them. */
function seconds(ns: bigint): string {
  const sign = ns < 0n ? '-' : '';
  const digits = (ns < 0n ? -ns : ns).toString().padStart(10, '0');
  return `${sign}${digits.slice(0, -9)}.${digits.slice(-9)}`;
}
