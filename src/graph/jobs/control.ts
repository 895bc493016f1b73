import { type JobTable, serve } from '../../base/pool.ts';
import { CLONE_FS, unshare } from '../../linux/namespace.ts';
import { hash } from './hash.ts';
import { mount, unmount } from './mounting.ts';
import { remove } from './remove.ts';
import { sync } from './sync.ts';

// The entry module of the control thread: short calls that may block, and that must not wait behind a long job. It has
// a working directory of its own, for mounts by relative paths.

unshare(CLONE_FS);

const TABLE: JobTable = {
  remove,
  mount,
  unmount,
  hash,
  sync,
};
serve(TABLE);
