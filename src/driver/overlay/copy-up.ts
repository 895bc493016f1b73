import { chmodSync, mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { type ByteString, toBytes } from '../../base/bytes.ts';
import { isStorageError, StorageError } from '../../base/errors.ts';
import type { Finding } from '../../base/values.ts';
import { OPAQUE, overlayPrefix } from '../../fs/whiteouts.ts';
import { located } from '../../linux/libc.ts';
import { lgetxattr, lsetxattr } from '../../linux/xattr.ts';

// What a mounted overlay writes into its upper when files are changed through it: the two checks of Docker's overlay2
// (driver-behaviour K1, K2), on one mount. The steps on both sides of the mount are here; who mounts is not.

/** What copying up does, under the options that the probe was mounted with. */
export interface CopyUpFindings {
  /** Docker's verdict: whether an upper directory, read as it is, is the difference. */
  readonly nativeDiff: Finding;
  /** Whether a directory that is copied up takes the opaque mark of the one below with it: it then hides what it shows. */
  readonly copiesOpaque: Finding;
  /** Whether a renamed directory of a lower is marked with where it was (`redirect_dir`). */
  readonly redirects: Finding;
  /** Whether a file whose metadata alone changes is copied up without its data (`metacopy`). */
  readonly metacopy: Finding;
}

type At = (...parts: string[]) => ByteString;

const PREFIX = overlayPrefix('overlay') as string;
const name = (mark: string): ByteString => `${PREFIX}${mark}` as ByteString;

/** Before the mount of `lower2` on `lower1`, with `upper`. The directories are there and empty. */
export function prepareCopyUp(at: At): void {
  for (const path of [at('lower1', 'd'), at('lower1', 'd1'), at('lower2', 'd')]) mkdirSync(toBytes(path));
  writeFileSync(toBytes(at('lower1', 'empty')), '', { mode: 0o700 });
  writeFileSync(toBytes(at('lower1', 'full')), 'data', { mode: 0o700 });
  lsetxattr(at('lower2', 'd'), name('opaque'), Buffer.from(OPAQUE));
}

/** While it is mounted on `merged`. A file that cannot be changed through the mount is an error, not an answer. */
export function observeCopyUp(at: At): CopyUpFindings {
  writeFileSync(toBytes(at('merged', 'd', 'f')), '');
  const opaque = lgetxattr(at('upper', 'd'), name('opaque'))?.toString('latin1') === OPAQUE;
  const copiesOpaque = {
    holds: opaque,
    because: opaque
      ? 'a directory that is copied up takes the opaque mark with it (kernels before 4.8)'
      : 'a directory that is copied up leaves the opaque mark below',
  };
  const metacopy = observeMetacopy(at);
  const redirects = observeRedirect(at);
  const why = opaque ? copiesOpaque : redirects;
  return {
    copiesOpaque,
    redirects,
    metacopy,
    nativeDiff: {
      holds: !why.holds,
      because: why.holds ? why.because : 'an upper directory is the difference as it is',
    },
  };
}

function observeMetacopy(at: At): Finding {
  for (const file of ['empty', 'full']) {
    const path = at('merged', file);
    try {
      chmodSync(toBytes(path), 0o600);
    } catch (error) {
      throwIfFull(error, path);
      const why = error instanceof Error ? error.message : String(error);
      throw new StorageError('unavailable', `Cannot tell whether overlay uses metacopy: ${why}`, { cause: error });
    }
    if (lgetxattr(at('upper', file), name('metacopy')) !== undefined) {
      return { holds: true, because: 'a changed mode copies a file up without its data (metacopy)' };
    }
  }
  return { holds: false, because: 'a changed mode copies a file up with its data' };
}

function observeRedirect(at: At): Finding {
  try {
    renameSync(toBytes(at('merged', 'd1')), toBytes(at('merged', 'd2')));
  } catch (error) {
    throwIfFull(error, at('merged', 'd1'));
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'EXDEV')
      return { holds: false, because: 'directories of a lower cannot be renamed (redirect_dir is off)' };
    return { holds: true, because: `a directory of a lower cannot be renamed: ${message}` };
  }
  const redirect = lgetxattr(at('upper', 'd2'), name('redirect'));
  return redirect === undefined
    ? { holds: false, because: 'a renamed directory is copied' }
    : { holds: true, because: 'a renamed directory of a lower is only marked with where it was (redirect_dir is on)' };
}

/** A full disk tells nothing of overlay: it is no answer. */
function throwIfFull(error: unknown, path: ByteString): void {
  const told = located(error, path);
  if (isStorageError(told, 'resource-exhausted')) throw told;
}
