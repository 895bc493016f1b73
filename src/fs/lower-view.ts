import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import {
  AT_FDCWD,
  close,
  fstat,
  lstatat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_PATH,
  O_RDONLY,
  openat,
  readDirectory,
  readlinkat,
  type Stat,
} from '../linux/inode.ts';
import { ENOENT } from '../linux/libc.ts';
import { copyEntry } from './copy.ts';
import { isDirectory, isFile, isWhiteout, typeOf } from './stat.ts';
import { overlayMarks, type WhiteoutStyle } from './whiteouts.ts';
import { type EntryPath, keepXattr, viaProc, type Xattrs, xattrsOf, xattrsOfFd } from './xattrs.ts';

/** Directory descriptors kept open beside those of the roots. */
const KEPT_OPEN_MAX = 256;

/** What a path shows. `dirFd` is borrowed: it is open until the view's next call. */
export interface Found {
  /** Index of the layer it comes from, 0 on top. */
  readonly layer: number;
  readonly dirFd: number;
  /** Its name in `dirFd`; `.` for the root. */
  readonly name: ByteString;
  readonly stat: Stat;
}

/** One layer's part of a merged directory. */
interface Part {
  readonly layer: number;
  readonly fd: number;
  readonly holdsXattrWhiteouts: boolean;
}

/** What one part of a directory gives for a directory in it. */
interface Step {
  readonly part?: Part;
  /** Nothing below it counts. */
  readonly last: boolean;
}

/** Descriptors that a view keeps open, beside those of the roots. */
interface Tally {
  open: number;
}

/**
 * A merged directory. Its parts are opened as they are asked for: what most paths show lies in one of the first, and an
 * image may have a hundred layers.
 */
class Merged {
  readonly #parts: Part[] = [];
  /** The part below those that are known. */
  readonly #next: () => Part | undefined;
  readonly #tally: Tally;
  /** Directories in this one that have not asked for all of its parts. */
  readonly #unfinished = new Set<Merged>();
  #above: Merged | undefined;

  constructor(tally: Tally, next: () => Part | undefined) {
    this.#tally = tally;
    this.#next = next;
  }

  at(index: number): Part | undefined {
    while (this.#parts.length <= index) {
      const part = this.#next();
      if (part === undefined) return undefined;
      this.#parts.push(part);
      this.#tally.open++;
    }
    return this.#parts[index];
  }

  /** Top first. */
  *parts(): Generator<Part, void, undefined> {
    for (let i = 0, part = this.at(i); part !== undefined; part = this.at(++i)) yield part;
  }

  child(tally: Tally, step: (part: Part) => Step): Merged {
    let at = 0;
    let ended = false;
    const child: Merged = new Merged(tally, () => {
      while (!ended) {
        const above = this.at(at++);
        if (above === undefined) break;
        const { part, last } = step(above);
        ended = last;
        if (part !== undefined) return part;
      }
      ended = true;
      child.#leave();
      return undefined;
    });
    child.#above = this;
    this.#unfinished.add(child);
    return child;
  }

  close(): void {
    for (const child of [...this.#unfinished]) child.finish();
    this.drop();
  }

  /** Asks for all parts: from then on it needs nothing of the directory above. */
  finish(): void {
    while (this.at(this.#parts.length) !== undefined);
  }

  #leave(): void {
    if (this.#above !== undefined) this.#above.#unfinished.delete(this);
    this.#above = undefined;
  }

  /** Without a thought for the directories in it. */
  drop(): void {
    this.#leave();
    this.#tally.open -= this.#parts.length;
    for (const { fd } of this.#parts.splice(0)) close(fd);
  }
}

/**
 * What a union of layers shows at a path, without mounting it: nearest layer first; whiteouts, opaque directories and
 * non-directories hide what is below. A symlink on the way means that nothing is there: none is followed.
 *
 * What holds the roots is opened when it is made and all is reached by descriptor afterwards, so that it works on in a
 * thread that was jailed since (there with `viaWorkingDirectory`). A layer that was written with redirects or metacopy is `unsupported`.
 */
export class LowerView implements Disposable {
  readonly #style: WhiteoutStyle;
  readonly #entryPath: EntryPath;
  /** Merged directories by path, least recently used first; not the root. */
  readonly #directories = new Map<string, Merged>();
  readonly #root: Merged;
  readonly #home: number;
  readonly #tally: Tally = { open: 0 };

  /** `roots`: top first. `style`: how the layers spell deletions. */
  constructor(roots: readonly ByteString[], style: WhiteoutStyle, entryPath: EntryPath = viaProc) {
    this.#style = style;
    this.#entryPath = entryPath;
    const home = commonDirectory(roots);
    this.#home = openat(AT_FDCWD, home, O_PATH | O_DIRECTORY);
    let layer = 0;
    this.#root = new Merged({ open: 0 }, () => {
      const root = roots[layer];
      if (root === undefined) return undefined;
      const path = root.slice(home.length).replace(/^\/+/, '') || '.';
      const fd = openat(this.#home, path as ByteString, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      // The root's own opaque flag is ignored, as the kernel does (observed on 6.18).
      return { layer: layer++, fd, holdsXattrWhiteouts: overlayMarks(fd, style).holdsXattrWhiteouts };
    });
  }

  /** `path` as in an archive (slashes around and `.` do not matter); `..` shows nothing. */
  lookup(path: ByteString): Found | undefined {
    const names = split(path);
    const name = names.pop();
    if (name === undefined) return this.#rootItself();
    const directory = this.#directory(names);
    if (directory === undefined) return undefined;
    this.#evict(directory);
    return this.#find(directory, name);
  }

  /** The names that the directory at `path` shows, sorted by bytes; undefined where there is no directory. */
  list(path: ByteString): ByteString[] | undefined {
    const directory = this.#directory(split(path));
    if (directory === undefined) return undefined;
    this.#evict(directory);
    const names = new Set<ByteString>();
    for (const part of directory.parts()) {
      // A fresh descriptor: listing moves its offset.
      const fd = openat(part.fd, '.' as ByteString, O_RDONLY | O_DIRECTORY);
      try {
        for (const entry of readDirectory(fd, path)) names.add(entry.name);
      } finally {
        close(fd);
      }
    }
    const sorted = [...names].sort();
    return this.#style === 'none' && directory.at(1) === undefined
      ? sorted
      : sorted.filter((name) => this.#find(directory, name) !== undefined);
  }

  /** Opens a file or directory for reading; the caller closes it. */
  open(found: Found): number {
    const fd = openat(found.dirFd, found.name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if (isFile(found.stat) && overlayMarks(fd, this.#style).metacopy) {
      close(fd);
      throw unsupported(found.name, 'its content is in another file (metacopy)');
    }
    return fd;
  }

  readlink(found: Found): ByteString {
    return readlinkat(found.dirFd, found.name) as ByteString;
  }

  xattrs(found: Found, keep: (name: ByteString) => boolean = keepXattr): Xattrs {
    const type = typeOf(found.stat.mode);
    if (type !== 'file' && type !== 'directory') return xattrsOf(this.#entryPath(found.dirFd, found.name), keep);
    const fd = openat(found.dirFd, found.name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    try {
      return xattrsOfFd(fd, keep);
    } finally {
      close(fd);
    }
  }

  /** Copies what was found (no directory) up to a free name. */
  copyUp(found: Found, toDirFd: number, name: ByteString, check: () => void = () => {}): void {
    if (isFile(found.stat)) close(this.open(found)); // refuses metacopy
    copyEntry(found.dirFd, found.name, toDirFd, name, { entryPath: this.#entryPath, check });
  }

  [Symbol.dispose](): void {
    for (const directory of this.#directories.values()) directory.drop();
    this.#directories.clear();
    this.#root.drop();
    close(this.#home);
  }

  #rootItself(): Found | undefined {
    const top = this.#root.at(0);
    if (top === undefined) return undefined;
    return { layer: top.layer, dirFd: top.fd, name: '.' as ByteString, stat: fstat(top.fd) };
  }

  #find(directory: Merged, name: ByteString): Found | undefined {
    if (name === '..') return undefined;
    for (const part of directory.parts()) {
      const stat = lstatat(part.fd, name, ENOENT);
      if (stat === undefined) continue;
      if (this.#hides(part, name, stat)) return undefined;
      return { layer: part.layer, dirFd: part.fd, name, stat };
    }
    return undefined;
  }

  #hides(part: Part, name: ByteString, stat: Stat): boolean {
    if (this.#style === 'none') return false;
    if (isWhiteout(stat)) return true;
    if (!part.holdsXattrWhiteouts || !isFile(stat) || stat.sizeBytes > 0) return false;
    const fd = openat(part.fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    try {
      return overlayMarks(fd, this.#style).whiteout;
    } finally {
      close(fd);
    }
  }

  #directory(names: readonly ByteString[]): Merged | undefined {
    // From the deepest that is open, not from the root: a deep tree that is asked top down costs a step each.
    let path = names.length === 0 ? '' : `/${names.join('/')}`;
    let depth = names.length;
    let directory = this.#directories.get(path);
    for (; directory === undefined && path !== ''; directory = this.#directories.get(path)) {
      path = path.slice(0, path.lastIndexOf('/'));
      depth--;
    }
    if (directory !== undefined) {
      this.#directories.delete(path);
      this.#directories.set(path, directory); // most recently used
    }
    let at = directory ?? this.#root;
    for (const name of names.slice(depth)) {
      if (name === '..') return undefined;
      path = `${path}/${name}`;
      const below = at.child(this.#tally, (part) => this.#enter(part, name));
      if (below.at(0) === undefined) return undefined;
      this.#directories.set(path, below);
      at = below;
      this.#evict(at);
    }
    return at;
  }

  #enter(above: Part, name: ByteString): Step {
    const stat = lstatat(above.fd, name, ENOENT);
    if (stat === undefined) return { last: false };
    if (!isDirectory(stat)) return { last: true }; // a whiteout, or something that hides what is below
    const fd = openat(above.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    try {
      const { redirect, opaque, holdsXattrWhiteouts } = overlayMarks(fd, this.#style);
      if (redirect) throw unsupported(name, 'it shows another directory (redirect)');
      return { part: { layer: above.layer, fd, holdsXattrWhiteouts }, last: opaque };
    } catch (error) {
      close(fd);
      throw error;
    }
  }

  /** Closes what was not used for longest, never `used`. */
  #evict(used: Merged): void {
    if (this.#tally.open <= KEPT_OPEN_MAX) return;
    for (const [path, directory] of this.#directories) {
      if (directory === used) continue;
      this.#directories.delete(path);
      directory.close();
      if (this.#tally.open <= KEPT_OPEN_MAX) return;
    }
  }
}

/** The deepest directory that all of `paths`, absolute ones, lie in. */
function commonDirectory(paths: readonly ByteString[]): ByteString {
  const [first = '/'] = paths;
  let common = first.slice(0, first.lastIndexOf('/') + 1);
  for (const path of paths)
    while (!path.startsWith(common)) common = common.slice(0, common.lastIndexOf('/', common.length - 2) + 1);
  return common as ByteString;
}

function unsupported(name: ByteString, why: string): StorageError {
  return new StorageError(
    'unsupported',
    `Cannot read ${quote(name)} of a lower layer: ${why}; read the layers through a mount instead`,
    { path: name },
  );
}

function split(path: ByteString): ByteString[] {
  return path.split('/').filter((part) => part !== '' && part !== '.') as ByteString[];
}
