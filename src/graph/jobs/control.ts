import type { ByteString } from '../../base/bytes.ts';
import { type JobTable, serve } from '../../base/pool.ts';
import { CLONE_FS, unshare } from '../../linux/namespace.ts';
import type { Mount } from '../../mount/mount.ts';
import { performMount, performUnmount } from '../../mount/perform.ts';
import { remove } from './remove.ts';
import { sync } from './sync.ts';

// The entry module of the control thread: short calls that may block, and that must not wait behind a long job. It has
// a working directory of its own, for mounts by relative paths.

unshare(CLONE_FS);

export interface MountRequest {
  readonly plan: Mount;
  readonly target: ByteString;
}

export interface UnmountRequest {
  readonly target: ByteString;
  readonly detach: boolean;
}

const TABLE: JobTable = {
  remove,
  mount: ({ plan, target }: MountRequest): void => performMount(plan, target),
  unmount: ({ target, detach }: UnmountRequest): boolean => performUnmount(target, { detach }),
  sync,
};
serve(TABLE);
