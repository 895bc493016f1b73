import { type ByteString, quote } from '../base/bytes.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_PATH, openat } from '../linux/inode.ts';
import { EBUSY, EINVAL, ENOENT, ENOTDIR } from '../linux/libc.ts';
import { MNT_DETACH, MS_BIND, MS_RDONLY, MS_REMOUNT, mount, pageSizeBytes, umount } from '../linux/mount.ts';
import { chdir, fchdir } from '../linux/namespace.ts';
import type { Mount } from './mount.ts';
import { type OverlayMount, overlayData, overlayRoute } from './overlay-options.ts';

const NOTHING = '' as ByteString;
const OVERLAY = 'overlay' as ByteString;

/**
 * Mounts `plan` on the directory `target` (absolute). It blocks, and an overlay whose options exceed a page changes
 * the working directory for a moment: call it only in a thread that did unshare(CLONE_FS), or the whole process moves.
 */
export function performMount(plan: Mount, target: ByteString): void {
  if (plan.type === 'bind') {
    try {
      performBind(plan.source, target, plan.readonly);
    } catch (error) {
      throw isStorageError(error) ? (missing([plan.source], 'make a bind mount', error) ?? error) : error;
    }
    return;
  }
  const { data, base } = overlayRoute(plan, pageSizeBytes());
  try {
    if (base === undefined) mount(OVERLAY, target, OVERLAY, 0, data);
    else within(base, () => mount(OVERLAY, target, OVERLAY, 0, data));
  } catch (error) {
    throw isStorageError(error) ? explained(plan, error) : error;
  }
}

/** The kernel says that something is absent, or that it does not like it; not what. */
function explained(plan: OverlayMount, error: StorageError): StorageError {
  const { errno = '' } = error;
  if (!['ENOENT', 'ENOTDIR', 'EINVAL', 'ELOOP'].includes(errno)) return error;
  const facts = { syscall: 'mount', errno, cause: error };
  const all = [...plan.lower, ...(plan.dataOnly ?? []), plan.upper, plan.work].filter((path) => path !== undefined);
  const absent = missing(all, 'mount an overlay', error);
  if (absent !== undefined) return absent;
  if (errno === 'ENOENT' || errno === 'ENOTDIR') return error;
  const why =
    errno === 'ELOOP' ? 'one of its directories lies in another (ELOOP)' : 'the kernel refuses its options (EINVAL)';
  const what = `Cannot mount an overlay: ${why}; dmesg may say which. They were ${quote(overlayData(plan))}`;
  return new StorageError(errno === 'ELOOP' ? 'failed-precondition' : 'unsupported', what, facts);
}

/** What is to be said of the first of `directories` that is none. */
function missing(directories: readonly ByteString[], action: string, cause: StorageError): StorageError | undefined {
  const { errno } = cause;
  for (const path of directories) {
    const fd = openat(AT_FDCWD, path, O_PATH | O_DIRECTORY, 0, ENOENT, ENOTDIR);
    const facts = { path, syscall: 'mount', ...(errno === undefined ? {} : { errno }), cause };
    if (fd >= 0) close(fd);
    else if (fd === -ENOENT) {
      return new StorageError('not-found', `Cannot ${action}: its directory ${quote(path)} does not exist`, facts);
    } else return new StorageError('failed-precondition', `Cannot ${action}: ${quote(path)} is no directory`, facts);
  }
  return undefined;
}

// mount(2): the flags of a bind mount other than MS_REC are ignored at first, so read-only needs a second call.
function performBind(source: ByteString, target: ByteString, readonly: boolean): void {
  mount(source, target, NOTHING, MS_BIND, NOTHING);
  if (!readonly) return;
  try {
    mount(NOTHING, target, NOTHING, MS_REMOUNT | MS_BIND | MS_RDONLY, NOTHING);
  } catch (error) {
    umount(target, MNT_DETACH); // nobody can have entered what should have been read-only
    throw error;
  }
}

function within<T>(directory: ByteString, task: () => T): T {
  const before = openat(AT_FDCWD, '.' as ByteString, O_PATH | O_DIRECTORY);
  try {
    chdir(directory);
    try {
      return task();
    } finally {
      fchdir(before);
    }
  } finally {
    close(before);
  }
}

/**
 * Unmounts the topmost mount on `target`; not mounted is success. False when something uses it; with `detach` it goes
 * from the tree at once and ends with its last user. Blocks: a writable overlay syncs its whole filesystem.
 */
export function performUnmount(target: ByteString, options: { readonly detach: boolean }): boolean {
  return umount(target, options.detach ? MNT_DETACH : 0, EBUSY, EINVAL, ENOENT) !== -EBUSY;
}
