import type { ByteString } from '../../base/bytes.ts';
import { type Codec, warm } from '../../codec/warm.ts';
import { AT_FDCWD, close, closeBeside, O_DIRECTORY, O_PATH, openat } from '../../linux/inode.ts';
import { EPERM } from '../../linux/libc.ts';
import { MS_REC, MS_SLAVE, mount } from '../../linux/mount.ts';
import {
  CLONE_FS,
  CLONE_NEWNS,
  chdir,
  chroot,
  fchdir,
  setMountNamespace,
  umask,
  unshare,
} from '../../linux/namespace.ts';
import { sha256 } from '../../linux/sha256.ts';

const HERE = '.' as ByteString;
const ROOT = '/' as ByteString;

/**
 * The way of a job thread into a jail and out again, by descriptors of the host's root and mount namespace. They are
 * open only meanwhile: a thread that is ended closes nothing. Making one gives the thread a root, working directory and
 * umask (0) of its own, so it is for job threads only; and for the main thread of a program, which is lent for a while: it has
 * its umask and its working directory back whenever it is out of a jail.
 */
export class Jail {
  readonly #warmed = new Set<Codec>();

  readonly #lent: boolean;

  constructor({ lent = false }: { readonly lent?: boolean } = {}) {
    this.#lent = lent;
    unshare(CLONE_FS);
    if (!lent) umask(0);
  }

  /**
   * Runs `task` with `directory` as this thread's root. Whatever it does by path stays inside; it must be synchronous
   * and load no code (a module, a name service, local time), or files of the layer would be taken for the host's:
   * `codecs` are those that it uses.
   */
  inside<T>(directory: ByteString, codecs: readonly Codec[], task: () => T): T {
    this.#warm(codecs);
    return this.#lent ? this.#keeping(() => this.#jailed(directory, task)) : this.#jailed(directory, task);
  }

  #jailed<T>(directory: ByteString, task: () => T): T {
    const hostRoot = openat(AT_FDCWD, ROOT, O_PATH | O_DIRECTORY);
    try {
      chdir(directory);
      chroot(HERE);
      try {
        return task();
      } finally {
        fchdir(hostRoot);
        chroot(HERE);
      }
    } finally {
      close(hostRoot);
    }
  }

  /** What was this thread's own is so again afterwards. */
  #keeping<T>(task: () => T): T {
    const here = openat(AT_FDCWD, HERE, O_PATH | O_DIRECTORY);
    const mask = umask(0);
    try {
      return task();
    } finally {
      umask(mask);
      fchdir(here);
      close(here);
    }
  }

  /** Has them load what they load late. */
  #warm(codecs: readonly Codec[]): void {
    sha256(); // hardly anything: always
    for (const codec of codecs) {
      if (!this.#warmed.has(codec)) warm(codec);
      this.#warmed.add(codec);
    }
  }

  /**
   * Runs `task` in a mount namespace of this thread's own: what it mounts nobody else sees, and it is gone afterwards,
   * also when the process is killed. `otherwise` runs where this thread may make no namespace (root of a container).
   */
  privately<T>(task: () => T, otherwise?: () => T): T {
    using entered = this.enterPrivately(otherwise !== undefined);
    return entered === undefined ? (otherwise as () => T)() : task();
  }

  /** Runs `task` where another thread of this process is, as it told by `standing`. */
  beside<T>(other: Standing, task: () => T): T {
    unshare(CLONE_FS); // threads that were started meanwhile (a compressor's) have the root of who started them
    const own = standing();
    try {
      try {
        goTo(other);
        return task();
      } finally {
        goTo(own);
      }
    } finally {
      closeAll(own);
    }
  }

  /** As `privately`, until disposed of. */
  enterPrivately(mayFail: boolean): Entered | undefined {
    let outside: Standing | undefined = standing();
    let inside: Standing | undefined;
    try {
      if (mayFail && unshare(CLONE_NEWNS, EPERM) !== 0) {
        closeAll(outside);
        return undefined;
      }
      if (!mayFail) unshare(CLONE_NEWNS);
    } catch (error) {
      closeAll(outside);
      throw error;
    }
    const entered: Entered = {
      leave() {
        if (outside === undefined) return;
        inside = change(outside);
        outside = undefined;
      },
      enter() {
        if (inside === undefined) return;
        unshare(CLONE_FS); // threads that were started meanwhile have the root of who started them
        outside = change(inside);
        inside = undefined;
      },
      forget() {
        entered.leave();
        if (inside === undefined) return;
        const [mounts, ...places] = inside;
        inside = undefined;
        places.forEach(close);
        closeBeside(mounts);
      },
      [Symbol.dispose]() {
        const [back, other] = [outside, inside];
        outside = undefined;
        inside = undefined;
        if (other !== undefined) closeAll(other);
        if (back === undefined) return;
        try {
          goTo(back);
        } finally {
          closeAll(back);
        }
      },
    };
    try {
      mount('none' as ByteString, ROOT, '' as ByteString, MS_REC | MS_SLAVE, '' as ByteString);
    } catch (error) {
      entered[Symbol.dispose]();
      throw error;
    }
    return entered;
  }
}

/** A mount namespace of a thread's own, in which it is until it leaves. What is mounted there goes when this is disposed of. */
export interface Entered extends Disposable {
  /** Back to where the thread was. */
  leave(): void;
  /** In again; it goes back to where it is now. */
  enter(): void;
  /** As disposed of, but the thread does not wait until the kernel has let go of the mounts and of all that it knew of them. */
  forget(): void;
}

/** Where a thread is: descriptors of its mount namespace, root and working directory. */
export type Standing = readonly [mounts: number, root: number, here: number];

/** Of this thread; for `closeAll`. */
export function standing(): Standing {
  const open: number[] = [];
  try {
    open.push(openat(AT_FDCWD, '/proc/thread-self/ns/mnt' as ByteString, 0));
    for (const path of [ROOT, HERE]) open.push(openat(AT_FDCWD, path, O_PATH | O_DIRECTORY));
    return open as [number, number, number];
  } catch (error) {
    open.forEach(close);
    throw error;
  }
}

export function closeAll(descriptors: Standing): void {
  descriptors.forEach(close);
}

function goTo([mounts, root, here]: Standing): void {
  setMountNamespace(mounts); // the thread's root and working directory become that namespace's
  fchdir(root);
  chroot(HERE);
  fchdir(here);
}

/** Goes there, and closes what led there; answers where the thread was. */
function change(to: Standing): Standing {
  const from = standing();
  try {
    goTo(to);
  } catch (error) {
    closeAll(from);
    throw error;
  }
  closeAll(to);
  return from;
}
