import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';

/** Has the kernel forget what its page cache holds of a file (posix_fadvise(2), POSIX_FADV_DONTNEED). */
export function evict(path: string): void {
  // dd(1): "Request to drop cache for whole file."
  const args = [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0', 'status=none'];
  const { status, stderr } = spawnSync('dd', args, { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
}
