import type { ByteString } from '../../base/bytes.ts';
import { warm } from '../../codec/warm.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_PATH, openat } from '../../linux/inode.ts';
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

const HERE = '.' as ByteString;
const ROOT = '/' as ByteString;

/**
 * The way of a job thread into a jail and out again, by descriptors of the host's root and mount namespace. They are
 * open only meanwhile: a thread that is ended closes nothing. Making one gives the thread a root, working directory and
 * umask (0) of its own, so it is for job threads only; and for the main thread of a program, which keeps its umask and is
 * never jailed.
 */
export class Jail {
  #warmed = false;

  constructor({ keepsUmask = false }: { readonly keepsUmask?: boolean } = {}) {
    unshare(CLONE_FS);
    if (!keepsUmask) umask(0);
  }

  /**
   * Runs `task` with `directory` as this thread's root. Whatever it does by path stays inside; it must be synchronous
   * and load no code (a module, a name service, local time), or files of the layer would be taken for the host's.
   */
  inside<T>(directory: ByteString, task: () => T): T {
    if (!this.#warmed) warm(); // nothing that the codecs have not loaded by then is loaded in there
    this.#warmed = true;
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

  /**
   * Runs `task` in a mount namespace of this thread's own: what it mounts nobody else sees, and it is gone afterwards,
   * also when the process is killed. `otherwise` runs where this thread may make no namespace (root of a container).
   */
  privately<T>(task: () => T, otherwise?: () => T): T {
    using entered = this.enterPrivately(otherwise !== undefined);
    return entered === undefined ? (otherwise as () => T)() : task();
  }

  /** As `privately`, until disposed of. */
  enterPrivately(mayFail: boolean): Disposable | undefined {
    const hostRoot = openat(AT_FDCWD, ROOT, O_PATH | O_DIRECTORY);
    const hostMounts = openat(AT_FDCWD, '/proc/thread-self/ns/mnt' as ByteString, 0);
    const here = openat(AT_FDCWD, HERE, O_PATH | O_DIRECTORY);
    const closeAll = (): void => [here, hostMounts, hostRoot].forEach(close);
    const leave = (): void => {
      try {
        setMountNamespace(hostMounts); // the thread's root and working directory become that namespace's
        fchdir(hostRoot);
        chroot(HERE);
        fchdir(here);
      } finally {
        closeAll();
      }
    };
    let entered = false;
    try {
      if (mayFail) entered = unshare(CLONE_NEWNS, EPERM) === 0;
      else {
        unshare(CLONE_NEWNS);
        entered = true;
      }
      if (entered) mount('none' as ByteString, ROOT, '' as ByteString, MS_REC | MS_SLAVE, '' as ByteString);
    } catch (error) {
      if (entered) leave();
      else closeAll();
      throw error;
    }
    if (entered) return { [Symbol.dispose]: leave };
    closeAll();
    return undefined;
  }
}
