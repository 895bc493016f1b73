import { type ByteString, fromText, quote, toBytes } from '../base/bytes.ts';
import { digestOf, hexOf } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import { isDirectory } from '../fs/stat.ts';
import { AT_FDCWD, lstatat, mkdirat } from '../linux/inode.ts';
import { EEXIST } from '../linux/libc.ts';

/**
 * Where the holds and locks of a driver without a store live: below /run for root, else below $XDG_RUNTIME_DIR, else
 * /tmp (then made with mode 0700, and refused if it is somebody else's). By a hash of the home, so that all who open
 * one home meet there; `home` is absolute, without symlinks.
 */
export function bareRunDirectory(home: ByteString, env: NodeJS.ProcessEnv = process.env): ByteString {
  const uid = process.geteuid?.() ?? 0;
  const shared = shareOf(uid, env['XDG_RUNTIME_DIR']);
  mkdirat(AT_FDCWD, shared, 0o700, EEXIST);
  const stat = lstatat(AT_FDCWD, shared);
  if (stat === undefined || !isDirectory(stat) || stat.uid !== uid || (stat.mode & 0o022) !== 0) {
    const remedy = 'Remove it, or set XDG_RUNTIME_DIR';
    throw new StorageError(
      'permission-denied',
      `Cannot keep holds in ${quote(shared)}: it is not a directory of user ${uid} that only this user can write. ${remedy}`,
      { path: shared, remedy },
    );
  }
  const run = `${shared}/${hexOf(digestOf(toBytes(home))).slice(0, 32)}` as ByteString;
  mkdirat(AT_FDCWD, run, 0o700, EEXIST);
  return run;
}

function shareOf(uid: number, runtime: string | undefined): ByteString {
  if (uid === 0) return '/run/layerstore' as ByteString;
  if (runtime?.startsWith('/')) return fromText(`${runtime}/layerstore`);
  return `/tmp/layerstore-${uid}` as ByteString;
}
