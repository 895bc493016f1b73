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

/**
 * What a union of layers shows at a path, without mounting it: nearest layer first; whiteouts, opaque directories and
 * non-directories hide what is below. A symlink on the way means that nothing is there: none is followed.
 *
 * All roots are opened when it is made and reached by descriptor afterwards, so that it works on in a thread that was
 * jailed since (there with `viaWorkingDirectory`). A layer that was written with redirects or metacopy is `unsupported`.
 */
export class LowerView implements Disposable {
  readonly #style: WhiteoutStyle;
  readonly #entryPath: EntryPath;
  /** Merged directories by path, least recently used first; `''` is the root and always there. */
  readonly #directories = new Map<string, readonly Part[]>();
  #open = 0;

  /** `roots`: top first. `style`: how the layers spell deletions. */
  constructor(roots: readonly ByteString[], style: WhiteoutStyle, entryPath: EntryPath = viaProc) {
    this.#style = style;
    this.#entryPath = entryPath;
    const parts: Part[] = [];
    this.#directories.set('', parts);
    try {
      for (const [layer, root] of roots.entries()) {
        const fd = openat(AT_FDCWD, root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        // The root's own opaque flag is ignored, as the kernel does (observed on 6.18).
        parts.push({ layer, fd, holdsXattrWhiteouts: overlayMarks(fd, style).holdsXattrWhiteouts });
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** `path` as in an archive (slashes around and `.` do not matter); `..` shows nothing. */
  lookup(path: ByteString): Found | undefined {
    const names = split(path);
    const name = names.pop();
    if (name === undefined) return this.#root();
    const parts = this.#directory(names);
    if (parts === undefined) return undefined;
    this.#evict(parts);
    return this.#find(parts, name);
  }

  /** The names that the directory at `path` shows, sorted by bytes; undefined where there is no directory. */
  list(path: ByteString): ByteString[] | undefined {
    const parts = this.#directory(split(path));
    if (parts === undefined) return undefined;
    this.#evict(parts);
    const names = new Set<ByteString>();
    for (const part of parts) {
      // A fresh descriptor: listing moves its offset.
      const fd = openat(part.fd, '.' as ByteString, O_RDONLY | O_DIRECTORY);
      try {
        for (const entry of readDirectory(fd, path)) names.add(entry.name);
      } finally {
        close(fd);
      }
    }
    const sorted = [...names].sort();
    return this.#style === 'none' && parts.length === 1
      ? sorted
      : sorted.filter((name) => this.#find(parts, name) !== undefined);
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
  copyUp(found: Found, toDirFd: number, name: ByteString): void {
    if (isFile(found.stat)) close(this.open(found)); // refuses metacopy
    copyEntry(found.dirFd, found.name, toDirFd, name, { entryPath: this.#entryPath });
  }

  [Symbol.dispose](): void {
    for (const parts of this.#directories.values()) for (const part of parts) close(part.fd);
    this.#directories.clear();
  }

  #root(): Found | undefined {
    const top = this.#directories.get('')?.[0];
    if (top === undefined) return undefined;
    return { layer: top.layer, dirFd: top.fd, name: '.' as ByteString, stat: fstat(top.fd) };
  }

  #find(parts: readonly Part[], name: ByteString): Found | undefined {
    if (name === '..') return undefined;
    for (const part of parts) {
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

  /** The parts of a merged directory, top first. */
  #directory(names: readonly ByteString[]): readonly Part[] | undefined {
    // From the deepest that is open, not from the root: a deep tree that is asked top down costs a step each.
    let path = names.length === 0 ? '' : `/${names.join('/')}`;
    let depth = names.length;
    let parts = this.#directories.get(path);
    for (; parts === undefined; parts = this.#directories.get(path)) {
      path = path.slice(0, path.lastIndexOf('/'));
      depth--;
    }
    if (path !== '') {
      this.#directories.delete(path);
      this.#directories.set(path, parts); // most recently used
    }
    for (const name of names.slice(depth)) {
      path = `${path}/${name}`;
      const below = this.#enter(parts, name);
      if (below.length === 0) return undefined;
      this.#directories.set(path, below);
      this.#open += below.length;
      parts = below;
      this.#evict(parts);
    }
    return parts;
  }

  #enter(parts: readonly Part[], name: ByteString): readonly Part[] {
    if (name === '..') return [];
    const below: Part[] = [];
    try {
      for (const part of parts) {
        const stat = lstatat(part.fd, name, ENOENT);
        if (stat === undefined) continue;
        if (!isDirectory(stat)) break; // a whiteout, or something that hides what is below
        const fd = openat(part.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        const marks = overlayMarks(fd, this.#style);
        below.push({ layer: part.layer, fd, holdsXattrWhiteouts: marks.holdsXattrWhiteouts });
        if (marks.redirect) throw unsupported(name, 'it shows another directory (redirect)');
        if (marks.opaque) break;
      }
    } catch (error) {
      for (const part of below) close(part.fd);
      throw error;
    }
    return below;
  }

  /** Closes what was not used for longest, never `used`. */
  #evict(used: readonly Part[]): void {
    if (this.#open <= KEPT_OPEN_MAX) return;
    for (const [path, parts] of this.#directories) {
      if (path === '' || parts === used) continue;
      for (const part of parts) close(part.fd);
      this.#directories.delete(path);
      this.#open -= parts.length;
      if (this.#open <= KEPT_OPEN_MAX) return;
    }
  }
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
