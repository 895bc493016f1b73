import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { removeTree } from '../fs/remove.ts';
import { isDirectory, isFile, typeOf } from '../fs/stat.ts';
import type { Marks } from '../fs/whiteouts.ts';
import {
  AT_FDCWD,
  close,
  lstatat,
  mkdirat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  openat,
  openat2,
  RESOLVE_NO_SYMLINKS,
  readlinkat,
  type Stat,
  unlinkat,
} from '../linux/inode.ts';
import { EEXIST, ENAMETOOLONG, ENOENT, ENOSYS, EPERM } from '../linux/libc.ts';
import { Directories, type DirectoryRow, Mark, ROOT_ROW } from './directories.ts';
import { COMPONENT_BYTES_MAX, joinPath } from './names.ts';

// The tree that a layer is unpacked into, seen from inside the jail: every path here is resolved by the kernel below
// the thread's root, so no name of the archive can leave it. What this file adds is which directory a name means: the
// layer's own symlinks are followed, missing directories are made, files on the way refuse the archive.

/** An open directory and its path without symlinks. The descriptor is the tree's: valid until the next call. */
export interface Place {
  readonly fd: number;
  readonly path: ByteString;
  readonly row: DirectoryRow;
  /** What this archive made of it: known of places that it listed a moment ago. */
  looks?: Looks;
}

/** Group (the host's) and mode of a directory: what is made in it may take after them. */
export interface Looks {
  readonly gid: number;
  readonly mode: number;
}

/** Directories that are open at a time, beside the root. */
const OPEN_MAX = 8;
const LINKS_MAX = 40; // as the kernel's MAXSYMLINKS
/** Parts of the targets of symlinks that one name may lead over: 40 long ones would cost a second for each entry. */
const LINK_PARTS_MAX = 1000;
const DIRECTORY = O_PATH | O_DIRECTORY | O_NOFOLLOW;
/** Of the paths of names that are entries and deleted below, a hundred bytes each as a rule. */
const DELETED_BYTES_MAX = 64 * 1024 * 1024;
const EMPTY = '' as ByteString;
const HERE = '.' as ByteString;
/** What one call takes: PATH_MAX is 4,096 with its NUL. */
const CALL_BYTES_MAX = 4000;
/** A path without symlinks, far beyond PATH_MAX; each of its bytes can cost an inode. */
const PATH_BYTES_MAX = 65_536;

export class LayerTree implements Disposable {
  readonly root: Place;
  /** How deletions are spelt here. */
  readonly marks: Marks;
  /** Those that this layer made and that are still there. */
  readonly directories: Directories;
  /** What was taken away again, and so cannot be read back: the first path. */
  overwritten: ByteString | undefined;
  /** Open directories, each below the one before it. Those that entries are made in follow on one another. */
  readonly #way: Place[] = [];
  /** By what name the last of them was asked for, where symlinks led there. */
  #asked: ByteString | undefined;
  #openat2 = true;
  /** Paths without symlinks that this layer deletes below, and where something stands that is no directory. */
  readonly #deleted = new Set<ByteString>();
  #deletedBytes = 0;

  /** On the directory `path`: an empty one, or one whose unsettled directories are given. */
  constructor(path: ByteString, marks: Marks, directories: Directories = new Directories()) {
    const fd = openat(AT_FDCWD, path, O_PATH | O_DIRECTORY);
    this.root = { fd, path: EMPTY, row: ROOT_ROW };
    this.marks = marks;
    this.directories = directories;
  }

  /** The directory of a cleaned path, made where it is missing; `forMark`: for a whiteout, not for an entry. */
  directory(path: ByteString, forMark = false): Place {
    if (path === '') return this.root;
    const last = this.#way.at(-1);
    if (last !== undefined && (last.path === path || this.#asked === path)) return last;
    const above = this.#above(path);
    if (above.path === path) return above;
    const place = this.#known(path, above) ?? this.#descend(path, forMark);
    this.#enter(place);
    if (place.path !== path) this.#asked = path;
    return place;
  }

  /** A directory of this tree by its path without symlinks. The caller closes `fd`. */
  openKnown(path: ByteString): Place | undefined {
    return path === '' ? { ...this.root, fd: openat(this.root.fd, HERE, DIRECTORY) } : this.#known(path, this.root);
  }

  /** The last one on the way that is `path` or above it; those behind it are closed. */
  #above(path: ByteString): Place {
    for (let last = this.#way.at(-1); last !== undefined; last = this.#way.at(-1)) {
      const { length } = last.path;
      if ((path.length === length || path[length] === '/') && path.startsWith(last.path)) return last;
      this.#leave();
    }
    return this.root;
  }

  /** From `above`, which it is below. */
  #known(path: ByteString, above: Place): Place | undefined {
    const rest = above.path === '' ? path : (path.slice(above.path.length + 1) as ByteString);
    const row = this.directories.find(rest, above.row);
    return row === undefined ? undefined : { fd: this.#openDirect(above.fd, rest), path, row };
  }

  /** `place` is the last one on the way from now on. */
  #enter(place: Place): void {
    if (this.#above(place.path).path === place.path) this.#leave(); // it was opened anew
    if (this.#way.length === OPEN_MAX) close((this.#way.shift() as Place).fd);
    this.#way.push(place);
    this.#asked = undefined;
  }

  #leave(): void {
    const left = this.#way.pop();
    this.#asked = undefined;
    if (left !== undefined) close(left.fd);
  }

  /** Opens a path without symlinks, in as few calls as it takes. */
  #openDirect(from: number, path: ByteString): number {
    let fd = from;
    try {
      for (let at = 0; at < path.length; ) {
        let end = path.length;
        if (!this.#openat2) end = path.indexOf('/', at);
        else if (end - at > CALL_BYTES_MAX) end = path.lastIndexOf('/', at + CALL_BYTES_MAX);
        if (end < 0) end = path.length;
        const next = this.#step(fd, path.slice(at, end) as ByteString);
        if (next < 0) continue; // again, by components
        if (fd !== from) close(fd);
        fd = next;
        at = end + 1;
      }
      return fd;
    } catch (error) {
      if (fd !== from) close(fd);
      throw error;
    }
  }

  #step(from: number, part: ByteString): number {
    if (!this.#openat2) return openat(from, part, DIRECTORY);
    const fd = openat2(from, part, DIRECTORY, 0, RESOLVE_NO_SYMLINKS, ENOSYS, EPERM);
    if (fd < 0) this.#openat2 = false; // before 5.6, or refused by a seccomp filter
    return fd;
  }

  #descend(path: ByteString, forMark: boolean): Place {
    const todo = path.split('/').reverse();
    const names: ByteString[] = [];
    let bytes = 0;
    let linkParts = 0;
    let row: DirectoryRow = ROOT_ROW;
    let fd = openat(this.root.fd, HERE, DIRECTORY);
    const move = (next: number, to: DirectoryRow): void => {
      close(fd);
      fd = next;
      row = to;
    };
    try {
      for (let links = 0; ; ) {
        const part = todo.pop() as ByteString | undefined;
        if (part === undefined) break;
        if (part === '' || part === '.') continue;
        if (part === '..') {
          const parent = this.directories.parent(row);
          if (parent === undefined) continue;
          move(openat(fd, '..' as ByteString, DIRECTORY), parent);
          bytes -= (names.pop() as ByteString).length + 1;
          continue;
        }
        const stat = lstatat(fd, part, ENOENT, ENAMETOOLONG);
        if (stat !== undefined && isSymlink(stat)) {
          const here = joinPath(names.join('/') as ByteString, part);
          if (++links > LINKS_MAX) throw refusal(path, `symbolic links lead in a circle at ${quote(here)}`);
          const target = readlinkat(fd, part) ?? EMPTY;
          if (target.startsWith('/')) {
            move(openat(this.root.fd, HERE, DIRECTORY), ROOT_ROW);
            names.length = bytes = 0;
          }
          const more = target.split('/').reverse();
          linkParts += more.length;
          if (linkParts > LINK_PARTS_MAX) {
            throw refusal(path, `symbolic links lead over more than ${LINK_PARTS_MAX} parts at ${quote(here)}`);
          }
          todo.push(...more);
          continue;
        }
        bytes += part.length + 1;
        if (part.length > COMPONENT_BYTES_MAX || bytes > PATH_BYTES_MAX) {
          throw refusal(path, `its directory's path has a part or a length beyond what a layer may have`);
        }
        const child = this.#child({ fd, path: EMPTY, row }, part, stat, () => {
          const here = joinPath(names.join('/') as ByteString, part);
          return refusal(path, `the same archive made ${quote(here)} a ${typeOf((stat as Stat).mode)}, no directory`);
        });
        if (forMark && links > 0 && (stat === undefined || this.marks.isWhiteout(stat))) {
          this.directories.mark(child, Mark.passing);
          this.directories.mark(row, Mark.retouched);
        }
        move(openat(fd, part, DIRECTORY), child);
        names.push(part);
      }
    } catch (error) {
      close(fd);
      throw error;
    }
    return { fd, path: names.join('/') as ByteString, row };
  }

  #child(place: Place, name: ByteString, stat: Stat | undefined, refuse: () => StorageError): DirectoryRow {
    if (stat === undefined || this.marks.isWhiteout(stat))
      return this.#make(place, name, 0o755, Mark.implied, stat !== undefined);
    const known = this.directories.child(place.row, name);
    if (known === undefined) throw refuse();
    return known;
  }

  #make(place: Place, name: ByteString, mode: number, marks: number, overWhiteout: boolean): DirectoryRow {
    if (overWhiteout) unlinkat(place.fd, name);
    mkdirat(place.fd, name, mode);
    return this.directories.add(place.row, name, overWhiteout ? marks | Mark.reborn : marks);
  }

  /**
   * The directory `name` in `place`, listed by the archive: made with that mode, or taken over where this layer has it
   * already. It is open for reading.
   */
  listDirectory(place: Place, name: ByteString, mode: number): { readonly listed: Place; readonly made: boolean } {
    const path = joinPath(place.path, name);
    const known = this.directories.child(place.row, name);
    const row = known ?? this.#list(place, name, path, mode);
    if (known !== undefined) this.directories.unmark(known, Mark.implied);
    const listed = { fd: openat(place.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW), path, row };
    this.#enter(listed); // what comes next most often lies in it
    return { listed, made: known === undefined };
  }

  #list(place: Place, name: ByteString, path: ByteString, mode: number): DirectoryRow {
    const marks = this.#deleted.size > 0 && this.#deleted.delete(path) ? Mark.reborn : 0;
    if (mkdirat(place.fd, name, mode, EEXIST) === 0) return this.directories.add(place.row, name, marks);
    const overWhiteout = this.marks.isWhiteout(lstatat(place.fd, name) as Stat);
    if (!overWhiteout) this.clear(place, name);
    return this.#make(place, name, mode, marks, overWhiteout);
  }

  /** A whiteout names what is no directory: should it become one, it hides what lies below. */
  deleteBelow(place: Place, name: ByteString): void {
    const path = joinPath(place.path, name);
    this.#deletedBytes += path.length;
    if (this.#deletedBytes > DELETED_BYTES_MAX)
      throw refusal(path, 'the archive deletes too many names that it has itself');
    this.#deleted.add(path);
  }

  /** Takes away what stands at `name`, so that another entry can be made there; false where that was a whiteout. */
  clear(place: Place, name: ByteString): boolean {
    const stat = lstatat(place.fd, name, ENOENT);
    if (stat === undefined) return false;
    if (isDirectory(stat) || isSymlink(stat)) {
      // The directory looked up last may lie below what goes, or have been found by way of it (CVE-2025-47290).
      if (this.#way.at(-1) === place) this.#asked = undefined;
      else this.#forget();
    }
    if (isDirectory(stat) || isFile(stat)) this.overwritten ??= joinPath(place.path, name);
    const isWhiteout = this.marks.isWhiteout(stat);
    if (isWhiteout) this.deleteBelow(place, name);
    if (isDirectory(stat)) {
      const known = this.directories.child(place.row, name);
      if (known !== undefined) {
        if (this.directories.has(known, Mark.reborn | Mark.opaque)) this.deleteBelow(place, name);
        this.directories.remove(known);
      }
      removeTree(place.fd, name);
    } else unlinkat(place.fd, name);
    return !isWhiteout;
  }

  /** A stand-in is in the directory at a path without symlinks: it is touched again when that is filled. */
  markStandIn(path: ByteString): void {
    const row = this.directories.find(path);
    if (row !== undefined) this.directories.mark(row, Mark.retouched);
  }

  /** What stands at a path without symlinks, undefined where its directory or itself is gone. */
  stat(path: ByteString, name: ByteString): Stat | undefined {
    const place = this.openKnown(path);
    if (place === undefined) return undefined;
    try {
      return lstatat(place.fd, name, ENOENT);
    } finally {
      close(place.fd);
    }
  }

  #forget(): void {
    while (this.#way.length > 0) this.#leave();
  }

  /** Closes the descriptors; the tree stays. */
  [Symbol.dispose](): void {
    this.#forget();
    close(this.root.fd);
  }
}

function isSymlink(stat: Stat): boolean {
  return typeOf(stat.mode) === 'symlink';
}

/** The archive is to blame: `Cannot unpack "name": why`. */
export function refusal(name: ByteString, why: string): StorageError {
  const shown = name.length > 4096 ? (name.slice(0, 4096) as ByteString) : name;
  return new StorageError('corrupt', `Cannot unpack ${quote(shown)}: ${why}`, { path: shown });
}
