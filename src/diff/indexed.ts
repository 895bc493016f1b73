import { type ByteString, joinBytes, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { isDirectory, isWhiteout } from '../fs/stat.ts';
import { overlayPrefix } from '../fs/whiteouts.ts';
import { AT_FDCWD, close, lstatat, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, openat, readDirectory } from '../linux/inode.ts';
import { ENOENT, ENOTDIR } from '../linux/libc.ts';
import { lgetxattr } from '../linux/xattr.ts';

const REMEDY = 'Mount both sides, and compare those trees (as binds, with --walk)';

/**
 * Refuses (`unsupported`) an overlay that was written under `index=on`, where a file with several names was changed and
 * not all of its names lie in the upper: the others show the change too, and only a mount with its work directory knows.
 * That mount would write, so it is not ours to make. `work/index` holds one more name of each such file, whose
 * attribute says how many names the mount shows more than the upper has (fs/overlayfs/inode.c, ovl_set_nlink_common).
 */
export function refuseIndexed(work: ByteString, userxattr: boolean): void {
  const index = joinBytes(work, 'index' as ByteString);
  const fd = openat(AT_FDCWD, index, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ENOENT, ENOTDIR);
  if (fd < 0) return;
  try {
    const attribute = `${overlayPrefix(userxattr ? 'overlay-userxattr' : 'overlay')}nlink` as ByteString;
    for (const { name } of readDirectory(fd, index)) {
      const stat = lstatat(fd, name, ENOENT);
      if (stat === undefined || isDirectory(stat) || isWhiteout(stat)) continue;
      const more = lgetxattr(joinBytes(index, name), attribute)?.toString('latin1');
      // The name in the index counts as one of the upper's.
      if (more !== undefined && /^U-[1-9]/.test(more)) continue;
      throw new StorageError(
        'unsupported',
        `Cannot read the upper directory: under index=on a file was changed that has other names in the layers below (${quote(index)} keeps it), which only a mount with that directory shows. ${REMEDY}`,
        { path: index, remedy: REMEDY },
      );
    }
  } finally {
    close(fd);
  }
}
