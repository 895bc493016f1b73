import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { removeTree } from '../fs/remove.ts';
import {
  close,
  fstat,
  lstatat,
  mkdirat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  openat,
  openat2,
  RESOLVE_NO_SYMLINKS,
  readlinkat,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  type Stat,
  unlinkat,
} from '../linux/inode.ts';
import { EEXIST, ELOOP, ENAMETOOLONG, ENOENT, ENOSYS, ENOTDIR, EPERM } from '../linux/libc.ts';
import { baseName, joinPath, parentPath } from './names.ts';

// The tree that a layer is unpacked into, seen from inside the jail: every path here is resolved by the kernel below
// the thread's root, so no name of the archive can leave it. What this file adds is which directory a name means: the
// layer's own symlinks are followed, missing directories are made, files on the way refuse the archive.

/** A directory that this layer made. Kept by its path without symlinks; valid only while the inode is that one. */
export interface LayerDirectory {
  readonly ino: number;
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
  /** Given last, or everything made in the directory would inherit it. */
  defaultAcl: Buffer | undefined;
}

/** An open directory and its path without symlinks. The descriptor belongs to the tree: valid until the next call. */
export interface Place {
  readonly fd: number;
  readonly path: ByteString;
}

const LINKS_MAX = 40; // as the kernel's MAXSYMLINKS
const DIRECTORY = O_PATH | O_DIRECTORY | O_NOFOLLOW;
const EMPTY = '' as ByteString;

export class LayerTree implements Disposable {
  /** Path (root: empty) to directory. Entries of removed directories stay until their path is made again. */
  readonly directories: Map<ByteString, LayerDirectory> = new Map();
  readonly root: number;
  /** What was taken away again, and so cannot be read back: the first path. */
  overwritten: ByteString | undefined;
  #last: { readonly asked: ByteString; readonly place: Place } | undefined;
  #openat2 = true;

  /** On the directory `path`, which is empty. */
  constructor(path: ByteString) {
    this.root = openat(-100, path, O_PATH | O_DIRECTORY);
    this.directories.set(EMPTY, newDirectory(fstat(this.root).ino, true));
  }

  /** The directory of a cleaned path, made where it is missing. */
  directory(path: ByteString): Place {
    if (path === '') return { fd: this.root, path };
    const last = this.#last;
    if (last !== undefined && last.asked === path) return last.place;
    this.#forget();
    const fd = this.#openDirect(path);
    const place = fd === undefined ? this.#descend(path) : { fd, path };
    this.#last = { asked: path, place };
    return place;
  }

  /** Opens a directory of this tree by its path without symlinks, or undefined where it is no longer one. */
  #openDirect(path: ByteString): number | undefined {
    if (!this.#openat2 || path.length > 4000) return undefined;
    const fd = openat2(
      this.root,
      path,
      DIRECTORY,
      0,
      RESOLVE_NO_SYMLINKS,
      ENOENT,
      ENOTDIR,
      ELOOP,
      ENAMETOOLONG,
      ENOSYS,
      EPERM,
    );
    if (fd === -ENOSYS || fd === -EPERM) this.#openat2 = false; // before 5.6, or refused by a seccomp filter
    return fd < 0 ? undefined : fd;
  }

  #descend(path: ByteString): Place {
    let todo = path.split('/');
    let at = EMPTY;
    let fd = openat(this.root, '.' as ByteString, DIRECTORY);
    const move = (next: number, where: ByteString): void => {
      close(fd);
      fd = next;
      at = where;
    };
    try {
      for (let links = 0; ; ) {
        const part = todo.shift() as ByteString | undefined;
        if (part === undefined) break;
        if (part === '' || part === '.') continue;
        if (part === '..') {
          if (at !== '') move(openat(fd, '..' as ByteString, DIRECTORY), parentPath(at));
          continue;
        }
        const here = joinPath(at, part);
        const next = openat(fd, part, DIRECTORY, 0, ENOENT, ENOTDIR, ELOOP);
        if (next >= 0) {
          move(next, here);
          continue;
        }
        const stat = lstatat(fd, part, ENOENT);
        if (stat !== undefined && (stat.mode & S_IFMT) === S_IFLNK) {
          if (++links > LINKS_MAX) throw refusal(path, `symbolic links lead in a circle at ${quote(here)}`);
          const target = readlinkat(fd, part) ?? EMPTY;
          todo = [...target.split('/'), ...todo];
          if (target.startsWith('/')) move(openat(this.root, '.' as ByteString, DIRECTORY), EMPTY);
          continue;
        }
        if (stat !== undefined && !isWhiteoutNode(stat)) {
          throw refusal(path, `the same archive made ${quote(here)} a ${kindOf(stat)}, not a directory`);
        }
        this.#makeDirectory({ fd, path: at }, part, 0o755, true, stat !== undefined);
        move(openat(fd, part, DIRECTORY), here);
      }
    } catch (error) {
      close(fd);
      throw error;
    }
    return { fd, path: at };
  }

  #makeDirectory(
    place: Place,
    name: ByteString,
    mode: number,
    implied: boolean,
    overWhiteout: boolean,
  ): LayerDirectory {
    if (overWhiteout) unlinkat(place.fd, name);
    mkdirat(place.fd, name, mode);
    const made = newDirectory((lstatat(place.fd, name) as Stat).ino, implied);
    made.reborn = overWhiteout;
    this.directories.set(joinPath(place.path, name), made);
    return made;
  }

  /** The directory `name` in `place`, listed by the archive: made, or taken over where this layer has it already. */
  listDirectory(place: Place, name: ByteString): LayerDirectory {
    if (mkdirat(place.fd, name, 0o700, EEXIST) === 0) {
      const made = newDirectory((lstatat(place.fd, name) as Stat).ino, false);
      this.directories.set(joinPath(place.path, name), made);
      return made;
    }
    const stat = lstatat(place.fd, name) as Stat;
    const known = this.directories.get(joinPath(place.path, name));
    if ((stat.mode & S_IFMT) === S_IFDIR && known?.ino === stat.ino) {
      known.implied = false;
      return known;
    }
    const overWhiteout = isWhiteoutNode(stat);
    if (!overWhiteout) this.clear(place, name);
    return this.#makeDirectory(place, name, 0o700, false, overWhiteout);
  }

  /** Takes away what stands at `name`, so that another entry can be made there. */
  clear(place: Place, name: ByteString): void {
    const stat = lstatat(place.fd, name, ENOENT);
    if (stat === undefined) return;
    const type = stat.mode & S_IFMT;
    // The directory looked up last may lie below what goes, or behind it (CVE-2025-47290), unless it is the one we are in.
    if ((type === S_IFDIR || type === S_IFLNK) && this.#last?.place !== place) this.#forget();
    if (type === S_IFDIR || type === S_IFREG) this.overwritten ??= joinPath(place.path, name);
    if (type === S_IFDIR) removeTree(place.fd, name);
    else unlinkat(place.fd, name);
  }

  /** Opens a directory of the table for reading; undefined where the path is no longer that inode. */
  openListed(path: ByteString, directory: LayerDirectory, flags: number): number | undefined {
    const parent = this.#openExact(parentPath(path));
    if (parent === undefined) return undefined;
    try {
      const name = path === '' ? ('.' as ByteString) : baseName(path);
      const fd = openat(parent, name, flags | O_DIRECTORY | O_NOFOLLOW, 0, ENOENT, ENOTDIR, ELOOP);
      if (fd < 0) return undefined;
      if (fstat(fd).ino === directory.ino) return fd;
      close(fd);
      return undefined;
    } finally {
      close(parent);
    }
  }

  /** A descriptor (O_PATH) of the caller's own of a directory by its path without symlinks. */
  openDirectory(path: ByteString): number {
    const fd = this.#openExact(path);
    if (fd === undefined) throw refusal(path, 'its directory is gone');
    return fd;
  }

  #openExact(path: ByteString): number | undefined {
    let fd = openat(this.root, '.' as ByteString, DIRECTORY);
    if (path === '') return fd;
    const direct = this.#openDirect(path);
    if (direct !== undefined) {
      close(fd);
      return direct;
    }
    for (const part of path.split('/') as ByteString[]) {
      const next = openat(fd, part, DIRECTORY, 0, ENOENT, ENOTDIR, ELOOP);
      close(fd);
      if (next < 0) return undefined;
      fd = next;
    }
    return fd;
  }

  #forget(): void {
    if (this.#last !== undefined) close(this.#last.place.fd);
    this.#last = undefined;
  }

  /** Closes the descriptors; the tree stays. */
  [Symbol.dispose](): void {
    this.#forget();
    close(this.root);
  }
}

function newDirectory(ino: number, implied: boolean): LayerDirectory {
  return {
    ino,
    mtimeNs: undefined,
    implied,
    opaque: false,
    reborn: false,
    whiteouts: false,
    defaultAcl: undefined,
  };
}

/** A character device 0:0: overlayfs' whiteout. An archive's own device 0:0 is never made, so it is ours. */
export function isWhiteoutNode(stat: Stat): boolean {
  return (stat.mode & S_IFMT) === S_IFCHR && stat.rdevMajor === 0 && stat.rdevMinor === 0;
}

function kindOf(stat: Stat): string {
  return (stat.mode & S_IFMT) === S_IFREG ? 'file' : 'special file';
}

/** The archive is to blame: `Cannot unpack "name": why`. */
export function refusal(name: ByteString, why: string): StorageError {
  return new StorageError('corrupt', `Cannot unpack ${quote(name)}: ${why}`, { path: name });
}
