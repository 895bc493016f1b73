import { type ByteString, quote } from '../base/bytes.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import { WHITEOUT_PREFIX } from '../fs/whiteouts.ts';
import { AT_FDCWD, lstatat } from '../linux/inode.ts';
import { ENOENT } from '../linux/libc.ts';
import { lgetxattr } from '../linux/xattr.ts';

/**
 * What the kernel says of a tree that somebody changes, or whose marks nobody could have written, in the reader's words.
 * `root`: what `path` is in; `upper`: what that was mounted with.
 */
export function ofReading(error: unknown, path: ByteString, root: ByteString, upper?: ByteString): unknown {
  if (!isStorageError(error) || error.syscall === undefined) return error;
  const { errno } = error;
  const facts = { path, cause: error, ...(errno === undefined ? {} : { errno }) };
  // Found and not opened: its data were to be in a data-only layer. Where they were to be in another, it is not even found.
  const found = errno === 'ENOENT' && error.syscall === 'open' && is(() => lstatat(AT_FDCWD, join(root, path), ENOENT));
  if (
    found ||
    (errno === 'EIO' && upper !== undefined && METACOPY.some((mark) => is(() => lgetxattr(join(upper, path), mark))))
  ) {
    const what = `Cannot read ${quote(path)}: the layer has its metadata alone (metacopy), and none below has its data; give it the layers that it was written over`;
    return new StorageError('corrupt', what, facts);
  }
  if (errno === 'EIO') {
    const what = `Cannot read ${quote(path)}: the disk reported an error (EIO), or a layer below is not the one that has its data (metacopy); dmesg tells which`;
    return new StorageError('unavailable', what, facts);
  }
  if (errno === 'ENOENT' || errno === 'ESTALE' || errno === 'ENOTDIR') {
    const what = `Cannot read ${quote(path)}: it vanished while it was read; stop what writes to the layer and try again`;
    return new StorageError('failed-precondition', what, facts);
  }
  // Root is refused by no mode: what it may not read is a mark that leads out, or that the mount does not follow.
  const refused = process.geteuid?.() === 0 && (errno === 'EACCES' || errno === 'EPERM');
  if (refused || errno === 'EINVAL' || errno === 'ELOOP') {
    const what = `Cannot read ${quote(path)}: the kernel refuses what the layer says of it (${errno}); its marks (redirect, metacopy) lead nowhere, or the mount does not follow them`;
    return new StorageError('corrupt', what, facts);
  }
  return error;
}

const METACOPY = ['trusted.overlay.metacopy' as ByteString, 'user.overlay.metacopy' as ByteString];

function join(root: ByteString, path: ByteString): ByteString {
  return `${root}${path}` as ByteString;
}

/** A look back, for an error that is told anyway: what it cannot find (a path that is too long, say) is not there. */
function is(look: () => unknown): boolean {
  try {
    return look() !== undefined;
  } catch {
    return false;
  }
}

/** Names that an archive cannot hold. */
export function refuseWhiteoutName(path: ByteString, name: ByteString): void {
  if (!name.startsWith(WHITEOUT_PREFIX)) return;
  throw new StorageError(
    'unsupported',
    `Cannot pack ${quote(path)}: in a layer a name that begins with ".wh." means a deletion; rename or remove it`,
    { path },
  );
}

/** A file that somebody writes to. */
export function changed(archived: ByteString, how: string): StorageError {
  const path = `/${archived}` as ByteString;
  return new StorageError(
    'failed-precondition',
    `Cannot pack ${quote(path)}: ${how} while it was read; stop what writes to it and try again`,
    { path },
  );
}
