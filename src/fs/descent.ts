import { type ByteString, joinBytes } from '../base/bytes.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import {
  AT_FDCWD,
  close,
  DT_DIR,
  DT_UNKNOWN,
  fstat,
  lstatat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  readDirectory,
  type Stat,
} from '../linux/inode.ts';
import { sameInode } from './stat.ts';

/** Open descriptors one descent holds at most, beside the root's: deep trees must not use up the process's. */
const OPEN_MAX = 32;

/** Bytes of a path through directories that were not opened, where the kernel takes 4,095. */
const LATE_PATH_MAX = 1024;

interface Level {
  readonly name: ByteString;
  /** -1 while closed: then `stat` is what it must be when it is opened again, undefined where it never was open. */
  fd: number;
  stat: Stat | undefined;
}

/**
 * A place inside a directory tree, moved one name at a time by descriptors: no symlink is followed, no depth is too
 * deep, and few descriptors are open. Ancestors that were closed are opened again through `..`, and must be the same.
 */
export class Descent implements Disposable {
  readonly #levels: Level[];

  /** Takes `rootFd` (readable, a directory) over. */
  constructor(rootFd: number) {
    this.#levels = [{ name: '' as ByteString, fd: rootFd, stat: undefined }];
  }

  /** A symlink at the end of `root` is refused. */
  static open(root: ByteString): Descent {
    return new Descent(openat(AT_FDCWD, root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  }

  /** The descriptor of the present directory; this object closes it. Opens what `enterLater` left. */
  get fd(): number {
    const { fd } = this.#levels.at(-1) as Level;
    return fd >= 0 ? fd : this.#openLate();
  }

  /** 0 at the root. */
  get depth(): number {
    return this.#levels.length - 1;
  }

  /** The names of the present directory, sorted by bytes. */
  names(): ByteString[] {
    const names = readDirectory(this.fd, this.path).map((entry) => entry.name);
    // One character is one byte, so the default order of strings is the order of bytes.
    return names.sort();
  }

  /** As `names`, without what is known to be no directory. */
  directories(): ByteString[] {
    const found = readDirectory(this.fd, this.path).filter(({ type }) => type === DT_DIR || type === DT_UNKNOWN);
    return found.map((entry) => entry.name).sort();
  }

  /** Of the present directory, from the root: `/`, `/a/b`. */
  get path(): ByteString {
    if (this.#levels.length === 1) return '/' as ByteString;
    return this.#levels.map((level) => level.name).join('/') as ByteString;
  }

  /** Where a call failed that was given the present directory, or a name in it. */
  pathOf(error: unknown): ByteString {
    const name = isStorageError(error) ? error.path : undefined;
    const isName = name !== undefined && !name.includes('/') && !name.startsWith('descriptor ');
    return isName ? joinBytes(this.path, name as ByteString) : this.path;
  }

  /** Goes into a directory (a symlink or another thing is ENOTDIR); the negative errno where it was tolerated. */
  enter(name: ByteString, ...tolerated: number[]): number {
    const fd = openat(this.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ...tolerated);
    if (fd < 0) return fd;
    this.#closeDistant(this.#levels.length);
    this.#levels.push({ name, fd, stat: undefined });
    return 0;
  }

  /**
   * As `enter`, into what is known to be a directory and stays one, and opens it only when that is needed: then it must
   * be there.
   */
  enterLater(name: ByteString): void {
    this.#levels.push({ name, fd: -1, stat: undefined });
  }

  /** lstat(2) of a name in the present directory, which is not opened for it; undefined where the errno was tolerated. */
  stat(name: ByteString, ...tolerated: number[]): Stat | undefined {
    const { fd, path } = this.reach(name);
    return lstatat(fd, path, ...tolerated);
  }

  /** A name in the present directory, which is not opened for it, from one that is open. */
  reach(name: ByteString): { readonly fd: number; readonly path: ByteString } {
    let path = name;
    let depth = this.#levels.length - 1;
    for (let level = this.#levels[depth] as Level; level.fd < 0; level = this.#levels[--depth] as Level) {
      path = `${level.name}/${path}` as ByteString;
    }
    if (path.length > LATE_PATH_MAX) return { fd: this.fd, path: name };
    return { fd: (this.#levels[depth] as Level).fd, path };
  }

  /** Opens the directories that were entered without; answers the descriptor of the last. */
  #openLate(): number {
    let depth = this.#levels.length - 1;
    while ((this.#levels[depth - 1] as Level).fd < 0) depth--;
    for (; depth < this.#levels.length; depth++) {
      const { fd: above } = this.#levels[depth - 1] as Level;
      const level = this.#levels[depth] as Level;
      level.fd = openat(above, level.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
      this.#closeDistant(depth);
    }
    return (this.#levels.at(-1) as Level).fd;
  }

  /** Before a level becomes the one at `depth`: closes one far above. */
  #closeDistant(depth: number): void {
    const distant = this.#levels[depth - OPEN_MAX];
    if (distant === undefined || depth <= OPEN_MAX || distant.fd < 0) return;
    distant.stat = fstat(distant.fd);
    close(distant.fd);
    distant.fd = -1;
  }

  /** Back to the parent directory. */
  leave(): void {
    const left = this.#levels.pop() as Level;
    const parent = this.#levels.at(-1);
    try {
      if (left.fd < 0 || parent === undefined || parent.fd >= 0) return;
      const fd = openat(left.fd, '..' as ByteString, O_RDONLY | O_DIRECTORY);
      if (!sameInode(fstat(fd), parent.stat as Stat)) {
        close(fd);
        throw new StorageError('busy', 'Cannot go on in a directory tree: a directory in it was moved meanwhile', {
          path: this.path,
        });
      }
      parent.fd = fd;
    } finally {
      if (left.fd >= 0) close(left.fd);
    }
  }

  /** Goes to the directory that `names` lead to from the root, by the shortest way. */
  moveTo(names: readonly ByteString[]): void {
    let common = 0;
    while (common < names.length && common < this.depth && this.#levels[common + 1]?.name === names[common]) common++;
    while (this.depth > common) this.leave();
    for (const name of names.slice(common)) this.enter(name);
  }

  [Symbol.dispose](): void {
    for (const level of this.#levels.splice(0)) if (level.fd >= 0) close(level.fd);
  }
}
