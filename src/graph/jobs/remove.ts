import type { ByteString } from '../../base/bytes.ts';
import type { JobContext } from '../../base/pool.ts';
import { removeTree } from '../../fs/remove.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_PATH, openat } from '../../linux/inode.ts';
import { ENOENT } from '../../linux/libc.ts';

/** Job: removes a tree by the host's path; absent is success. What was removed before an abort stays removed. */
export function remove(path: ByteString, context: JobContext): void {
  const slash = path.lastIndexOf('/');
  const parent = openat(AT_FDCWD, (path.slice(0, slash) || '/') as ByteString, O_PATH | O_DIRECTORY, 0, ENOENT);
  if (parent < 0) return;
  try {
    removeTree(parent, path.slice(slash + 1) as ByteString, () => context.check());
  } finally {
    close(parent);
  }
}
