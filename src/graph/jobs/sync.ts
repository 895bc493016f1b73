import type { ByteString } from '../../base/bytes.ts';
import { AT_FDCWD, close, O_RDONLY, openat } from '../../linux/inode.ts';
import { syncfs } from '../../linux/sync.ts';

/** Job: writes the filesystem of `path` back. */
export function sync(path: ByteString): void {
  const fd = openat(AT_FDCWD, path, O_RDONLY);
  try {
    syncfs(fd);
  } finally {
    close(fd);
  }
}
