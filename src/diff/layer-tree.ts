import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { removeTree } from '../fs/remove.ts';
import { isDirectory, isFile, isWhiteout, typeOf } from '../fs/stat.ts';
import {
  AT_FDCWD,
  close,
  lstatat,
  mkdirat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  openat,
  openat2,
  RESOLVE_NO_SYMLINKS,
  readlinkat,
  type Stat,
  unlinkat,
} from '../linux/inode.ts';
import { EEXIST, ENAMETOOLONG, ENOENT, ENOSYS, EPERM } from '../linux/libc.ts';
import { COMPONENT_BYTES_MAX, joinPath } from './names.ts';

// The tree that a layer is unpacked into, seen from inside the jail: every path here is resolved by the kernel below
// the thread's root, so no name of the archive can leave it. What this file adds is which directory a name means: the
// layer's own symlinks are followed, missing directories are made, files on the way refuse the archive.

/** A directory that this layer made and that is still there; one that is taken away leaves its parent's `children`. */
export interface LayerDirectory {
  readonly parent: LayerDirectory | undefined;
  readonly name: ByteString;
  /** Directories of this layer in it. Not by path: the paths of a deep tree would need the square of its depth. */
  children: Map<ByteString, LayerDirectory> | undefined;
  /** Set at the very end: filling a directory changes its time. */
  mtimeNs: bigint | undefined;
  /** The archive has not listed it: it looks as the one below does. */
  implied: boolean;
  /** Marked opaque by the archive. */
  opaque: boolean;
  /** A whiteout of this layer names it: it is new, nothing of the one below is in it. */
  reborn: boolean;
  /** Whiteouts of this layer stand in it. */
  whiteouts: boolean;
  /** Something in it is changed while the layer is settled, so its time is given after that. */
  retouched: boolean;
  /** Made because a whiteout lies below a symlink that names it: without entries and a directory below, it goes again. */
  passing: boolean;
  /** Given last, or everything made in the directory would inherit it. */
  defaultAcl: Buffer | undefined;
  /** It is as it will be. */
  settled: boolean;
}

/** An open directory (O_PATH) and its path without symlinks. The descriptor is the tree's: valid until the next call. */
export interface Place {
  readonly fd: number;
  readonly path: ByteString;
  readonly directory: LayerDirectory;
}

const LINKS_MAX = 40; // as the kernel's MAXSYMLINKS
/** Parts of the targets of symlinks that one name may lead over: 40 long ones would cost a second for each entry. */
const LINK_PARTS_MAX = 1000;
const DIRECTORY = O_PATH | O_DIRECTORY | O_NOFOLLOW;
const EMPTY = '' as ByteString;
const HERE = '.' as ByteString;
/** What one call takes: PATH_MAX is 4,096 with its NUL. */
const CALL_BYTES_MAX = 4000;
/** A path without symlinks, far beyond PATH_MAX; each of its bytes can cost an inode. */
const PATH_BYTES_MAX = 65_536;

export class LayerTree implements Disposable {
  readonly root: Place;
  /** What was taken away again, and so cannot be read back: the first path. */
  overwritten: ByteString | undefined;
  #last: { readonly asked: ByteString; readonly place: Place } | undefined;
  #openat2 = true;

  /** On the directory `path`: an empty one, or one whose unsettled directories are `top` and below it. */
  constructor(path: ByteString, top: LayerDirectory = newDirectory(undefined, EMPTY, true)) {
    const fd = openat(AT_FDCWD, path, O_PATH | O_DIRECTORY);
    this.root = { fd, path: EMPTY, directory: top };
  }

  /** The directory of a cleaned path, made where it is missing; `forMark`: for a whiteout, not for an entry. */
  directory(path: ByteString, forMark = false): Place {
    if (path === '') return this.root;
    const last = this.#last;
    if (last !== undefined && last.asked === path) return last.place;
    this.#forget();
    const place = this.#known(path) ?? this.#descend(path, forMark);
    this.#last = { asked: path, place };
    return place;
  }

  /** A directory of this tree by its path without symlinks. The caller closes `fd`. */
  openKnown(path: ByteString): Place | undefined {
    return path === '' ? { ...this.root, fd: openat(this.root.fd, HERE, DIRECTORY) } : this.#known(path);
  }

  #known(path: ByteString): Place | undefined {
    let directory: LayerDirectory | undefined = this.root.directory;
    for (let at = 0; at < path.length && directory !== undefined; ) {
      const slash = path.indexOf('/', at);
      const end = slash < 0 ? path.length : slash;
      directory = directory.children?.get(path.slice(at, end) as ByteString);
      at = end + 1;
    }
    return directory === undefined ? undefined : { fd: this.#openDirect(path), path, directory };
  }

  /** Opens a path without symlinks, in as few calls as it takes. */
  #openDirect(path: ByteString): number {
    let fd = openat(this.root.fd, HERE, DIRECTORY);
    try {
      for (let at = 0; at < path.length; ) {
        let end = path.length;
        if (!this.#openat2) end = path.indexOf('/', at);
        else if (end - at > CALL_BYTES_MAX) end = path.lastIndexOf('/', at + CALL_BYTES_MAX);
        if (end < 0) end = path.length;
        const next = this.#step(fd, path.slice(at, end) as ByteString);
        if (next < 0) continue; // again, by components
        close(fd);
        fd = next;
        at = end + 1;
      }
      return fd;
    } catch (error) {
      close(fd);
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
    let { directory } = this.root;
    let fd = openat(this.root.fd, HERE, DIRECTORY);
    const move = (next: number, to: LayerDirectory): void => {
      close(fd);
      fd = next;
      directory = to;
    };
    try {
      for (let links = 0; ; ) {
        const part = todo.pop() as ByteString | undefined;
        if (part === undefined) break;
        if (part === '' || part === '.') continue;
        if (part === '..') {
          if (directory.parent === undefined) continue;
          move(openat(fd, '..' as ByteString, DIRECTORY), directory.parent);
          bytes -= (names.pop() as ByteString).length + 1;
          continue;
        }
        const stat = lstatat(fd, part, ENOENT, ENAMETOOLONG);
        if (stat !== undefined && isSymlink(stat)) {
          const here = joinPath(names.join('/') as ByteString, part);
          if (++links > LINKS_MAX) throw refusal(path, `symbolic links lead in a circle at ${quote(here)}`);
          const target = readlinkat(fd, part) ?? EMPTY;
          if (target.startsWith('/')) {
            move(openat(this.root.fd, HERE, DIRECTORY), this.root.directory);
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
        const child = this.#child({ fd, path: EMPTY, directory }, part, stat, () => {
          const here = joinPath(names.join('/') as ByteString, part);
          return refusal(path, `the same archive made ${quote(here)} a ${typeOf((stat as Stat).mode)}, no directory`);
        });
        if (stat === undefined && forMark && links > 0) {
          child.passing = true;
          directory.retouched = true;
        }
        move(openat(fd, part, DIRECTORY), child);
        names.push(part);
      }
    } catch (error) {
      close(fd);
      throw error;
    }
    return { fd, path: names.join('/') as ByteString, directory };
  }

  #child(place: Place, name: ByteString, stat: Stat | undefined, refuse: () => StorageError): LayerDirectory {
    if (stat === undefined || isWhiteout(stat)) return this.#make(place, name, 0o755, true, stat !== undefined);
    const known = place.directory.children?.get(name);
    if (known === undefined) throw refuse();
    return known;
  }

  #make(place: Place, name: ByteString, mode: number, implied: boolean, overWhiteout: boolean): LayerDirectory {
    if (overWhiteout) unlinkat(place.fd, name);
    mkdirat(place.fd, name, mode);
    return this.#made(place, name, implied, overWhiteout);
  }

  #made({ directory }: Place, name: ByteString, implied: boolean, reborn: boolean): LayerDirectory {
    const made = newDirectory(directory, name, implied);
    made.reborn = reborn;
    directory.children ??= new Map();
    directory.children.set(name, made);
    return made;
  }

  /** The directory `name` in `place`, listed by the archive: made, or taken over where this layer has it already. */
  listDirectory(place: Place, name: ByteString): LayerDirectory {
    if (mkdirat(place.fd, name, 0o700, EEXIST) === 0) return this.#made(place, name, false, false);
    const known = place.directory.children?.get(name);
    if (known !== undefined) {
      known.implied = false;
      return known;
    }
    const overWhiteout = isWhiteout(lstatat(place.fd, name) as Stat);
    if (!overWhiteout) this.clear(place, name);
    return this.#make(place, name, 0o700, false, overWhiteout);
  }

  /** Takes away what stands at `name`, so that another entry can be made there; false where that was a whiteout. */
  clear(place: Place, name: ByteString): boolean {
    const stat = lstatat(place.fd, name, ENOENT);
    if (stat === undefined) return false;
    if (isDirectory(stat) || isSymlink(stat)) {
      // The directory looked up last may lie below what goes, or have been found by way of it (CVE-2025-47290).
      if (this.#last?.place === place) this.#last = { asked: place.path, place };
      else this.#forget();
    }
    if (isDirectory(stat) || isFile(stat)) this.overwritten ??= joinPath(place.path, name);
    if (isDirectory(stat)) {
      place.directory.children?.delete(name);
      removeTree(place.fd, name);
    } else unlinkat(place.fd, name);
    return !isWhiteout(stat);
  }

  /** A stand-in is in the directory at a path without symlinks: it is touched again when that is filled. */
  markStandIn(path: ByteString): void {
    let directory: LayerDirectory | undefined = this.root.directory;
    for (const name of path === '' ? [] : (path.split('/') as ByteString[])) directory = directory?.children?.get(name);
    if (directory !== undefined) directory.retouched = true;
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
    if (this.#last !== undefined) close(this.#last.place.fd);
    this.#last = undefined;
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

/** One without entries. */
export function newDirectory(parent: LayerDirectory | undefined, name: ByteString, implied: boolean): LayerDirectory {
  return {
    parent,
    name,
    children: undefined,
    mtimeNs: undefined,
    implied,
    opaque: false,
    reborn: false,
    whiteouts: false,
    retouched: false,
    passing: false,
    defaultAcl: undefined,
    settled: false,
  };
}

/** The archive is to blame: `Cannot unpack "name": why`. */
export function refusal(name: ByteString, why: string): StorageError {
  const shown = name.length > 4096 ? (name.slice(0, 4096) as ByteString) : name;
  return new StorageError('corrupt', `Cannot unpack ${quote(shown)}: ${why}`, { path: shown });
}
