import { closeSync, constants, fstatSync, openSync } from 'node:fs';
import { StorageError } from '../base/errors.ts';
import { corrupt, shown } from '../oci/json.ts';
import type { BlobSource, Members } from './source.ts';

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK } = constants;

/**
 * The ordinary files of a layout directory that we do not trust. No symlink below it is followed, at any level; nothing
 * blocks on a fifo. Files stay open until disposal, each once.
 */
export class DirectoryMembers implements Members, Disposable {
  readonly #root: number;
  readonly #path: string;
  readonly #open = new Map<string, BlobSource>();
  readonly #directories = new Map<string, number>();

  /** `root` is a descriptor of the directory, open until disposal; `path` is where it was found. */
  constructor(root: number, path: string) {
    this.#root = root;
    this.#path = path;
  }

  find(name: string): BlobSource | undefined {
    const known = this.#open.get(name);
    if (known !== undefined) return known;
    const slash = name.lastIndexOf('/');
    const parent = slash < 0 ? { fd: this.#root, path: this.#path } : this.#directory(name.slice(0, slash));
    if (parent === undefined) return undefined;
    const fd = openBelow(parent, name.slice(slash + 1), O_RDONLY, name);
    if (fd === undefined) return undefined;
    try {
      const stat = fstatSync(fd);
      if (!stat.isFile()) throw corrupt(shown(name), 'it is not an ordinary file');
      const blob = { fd, offset: 0, length: stat.size };
      this.#open.set(name, blob);
      return blob;
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  #directory(name: string): Place | undefined {
    const path = `${this.#path}/${name}`;
    const known = this.#directories.get(name);
    if (known !== undefined) return { fd: known, path };
    const slash = name.lastIndexOf('/');
    const parent = slash < 0 ? { fd: this.#root, path: this.#path } : this.#directory(name.slice(0, slash));
    if (parent === undefined) return undefined;
    const fd = openBelow(parent, name.slice(slash + 1), O_RDONLY | O_DIRECTORY, name);
    if (fd === undefined) return undefined;
    this.#directories.set(name, fd);
    return { fd, path };
  }

  [Symbol.dispose](): void {
    for (const { fd } of this.#open.values()) closeSync(fd);
    for (const fd of this.#directories.values()) closeSync(fd);
    this.#open.clear();
    this.#directories.clear();
  }
}

interface Place {
  readonly fd: number;
  readonly path: string;
}

/** Opens `base`, one path component, in `parent` itself: a swap of a directory on the way changes nothing. */
function openBelow(parent: Place, base: string, flags: number, name: string): number | undefined {
  // node:fs has no openat; Linux has this. Elsewhere the path must do, and each of its components was looked at.
  const directory = process.platform === 'linux' ? `/proc/self/fd/${parent.fd}` : parent.path;
  try {
    return openSync(`${directory}/${base}`, flags | O_NOFOLLOW | O_NONBLOCK);
  } catch (cause) {
    switch ((cause as NodeJS.ErrnoException).code) {
      case 'ENOENT':
        return undefined;
      case 'ELOOP':
        throw corrupt(shown(name), 'it is a symlink, and links of a layout are not followed', cause);
      case 'ENOTDIR':
        throw corrupt(shown(name), 'it is not a directory', cause);
      case 'ENXIO':
        throw corrupt(shown(name), 'it is not an ordinary file', cause);
      case 'EACCES':
      case 'EPERM':
        throw new StorageError('permission-denied', `Cannot open ${shown(name)}: no right to read it`, { cause });
      case 'EMFILE':
      case 'ENFILE':
        throw new StorageError('resource-exhausted', `Cannot open ${shown(name)}: too many files are open`, { cause });
      default:
        throw cause;
    }
  }
}
