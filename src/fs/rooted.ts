import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import {
  AT_FDCWD,
  close,
  fstat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  openat,
  openat2,
  RESOLVE_IN_ROOT,
  RESOLVE_NO_MAGICLINKS,
  readlinkat,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  type Stat,
} from '../linux/inode.ts';
import { EINVAL, ELOOP, ENOENT, ENOSYS, ENOTDIR, EPERM, systemError } from '../linux/libc.ts';

/** Longer paths are walked by component: the kernel takes 4,095 bytes at once (PATH_MAX). */
const PATH_BYTES_MAX = 4000;
/** As the kernel's MAXSYMLINKS (path_resolution(7)). */
const SYMLINKS_MAX = 40;

export interface RootOptions {
  /** `walk` does without openat2, as where a seccomp filter or an old kernel refuses it. Default: openat2, if it works. */
  readonly resolve?: 'openat2' | 'walk';
}

/** The directory of a path's last component. The holder closes `dir`. */
export interface Parent {
  readonly dir: number;
  readonly name: ByteString;
}

/**
 * Paths inside a directory whose content is not trusted. Symlinks on the way are followed as a process chrooted there
 * would (absolute ones and `..` end at the root), one at the end never. The kernel holds the border, not string
 * comparison: openat2(2) RESOLVE_IN_ROOT, or descriptors of one component after another.
 */
export class Root implements Disposable {
  /** Of the root directory (O_PATH). */
  readonly fd: number;
  #walk: boolean;

  constructor(fd: number, options: RootOptions = {}) {
    this.fd = fd;
    this.#walk = options.resolve === 'walk';
  }

  /** `path` itself may not be a symlink. */
  static open(path: ByteString, options: RootOptions = {}): Root {
    return new Root(openat(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_NOFOLLOW), options);
  }

  /** A descriptor, or the negative errno where it was tolerated. A symlink at the end is ELOOP without O_PATH. */
  open(path: ByteString, flags: number, mode = 0, ...tolerated: number[]): number {
    return this.#resolve(path, flags | O_NOFOLLOW, mode, tolerated);
  }

  /** Undefined where there is nothing. */
  stat(path: ByteString): Stat | undefined {
    return this.#at(path, fstat);
  }

  /** Undefined where there is no symlink. */
  readlink(path: ByteString): ByteString | undefined {
    // An empty path reads the link that an O_PATH descriptor is (readlinkat(2)); ENOENT says that it is none.
    return this.#at(path, (fd) => readlinkat(fd, '' as ByteString, ENOENT, EINVAL));
  }

  /** Opens (O_PATH) the directory of `path`'s last component, which need not exist but must be a name. */
  parent(path: ByteString): Parent {
    const trimmed = path.replace(/\/+$/, '');
    const slash = trimmed.lastIndexOf('/');
    const name = trimmed.slice(slash + 1) as ByteString;
    if (name === '' || name === '.' || name === '..') {
      throw new StorageError('invalid-argument', `Cannot use path ${quote(path)}: its last component is no name`, {
        path,
      });
    }
    const dir = this.#resolve(trimmed.slice(0, Math.max(slash, 0)) as ByteString, O_PATH | O_DIRECTORY, 0, []);
    return { dir, name };
  }

  [Symbol.dispose](): void {
    close(this.fd);
  }

  #at<T>(path: ByteString, use: (fd: number) => T): T | undefined {
    const fd = this.#resolve(path, O_PATH | O_NOFOLLOW, 0, [ENOENT, ENOTDIR]);
    if (fd < 0) return undefined;
    try {
      return use(fd);
    } finally {
      close(fd);
    }
  }

  #resolve(path: ByteString, flags: number, mode: number, tolerated: readonly number[]): number {
    if (!this.#walk && path.length <= PATH_BYTES_MAX) {
      const how = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
      const given = path === '' ? ('.' as ByteString) : path;
      const result = openat2(this.fd, given, flags, mode, how, ...tolerated, ENOSYS, EPERM);
      if (result !== -ENOSYS && result !== -EPERM) return result;
      // EPERM is a seccomp filter, or the file's own answer: then the walk meets it as well.
      if (result === -ENOSYS) this.#walk = true;
    }
    const result = walkComponents(this.fd, path, flags, mode, tolerated);
    if (result >= 0 || tolerated.includes(-result)) return result;
    throw systemError('open', -result, path);
  }
}

/**
 * Resolves by one openat(2) with O_NOFOLLOW a component, from descriptors that were reached the same way; `..` starts
 * over from the root, so that a directory moved out meanwhile leads nowhere. Answers the negative errno of a failure
 * that is the path's, or tolerated.
 */
function walkComponents(
  root: number,
  path: ByteString,
  flags: number,
  mode: number,
  tolerated: readonly number[],
): number {
  const failures = [ENOENT, ENOTDIR, ELOOP, ...tolerated];
  const done: ByteString[] = [];
  const left = split(path).reverse();
  // A trailing slash follows a symlink (path_resolution(7)).
  const followsLast = (flags & O_NOFOLLOW) === 0 || path.endsWith('/');
  let links = 0;
  let dir = descend(root, []);
  try {
    for (let name = left.pop(); name !== undefined; name = left.pop()) {
      if (name === '..') {
        done.pop();
        const again = descend(root, done);
        if (again < 0) return again;
        close(dir);
        dir = again;
        continue;
      }
      if (left.length === 0 && !followsLast) return openat(dir, name, flags, mode, ...failures);
      const place = openat(dir, name, O_PATH | O_NOFOLLOW, 0, ...failures);
      if (place < 0) return place;
      const type = fstat(place).mode & S_IFMT;
      if (type === S_IFDIR) {
        close(dir);
        dir = place;
        done.push(name);
        continue;
      }
      const target = type === S_IFLNK ? readlinkat(place, '' as ByteString) : undefined;
      close(place);
      if (target === undefined) return -ENOTDIR;
      if (++links > SYMLINKS_MAX) return -ELOOP;
      if (target.startsWith('/')) {
        done.length = 0;
        close(dir);
        dir = descend(root, []);
      }
      left.push(...split(target).reverse());
    }
    return openat(dir, '.' as ByteString, flags, mode, ...failures);
  } finally {
    close(dir);
  }
}

function descend(root: number, names: readonly ByteString[]): number {
  let dir = openat(root, '.' as ByteString, O_PATH | O_DIRECTORY);
  for (const name of names) {
    const next = openat(dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, 0, ENOENT, ENOTDIR, ELOOP);
    close(dir);
    if (next < 0) return next;
    dir = next;
  }
  return dir;
}

function split(path: string): ByteString[] {
  return path.split('/').filter((part) => part !== '' && part !== '.') as ByteString[];
}
