import type { ByteString } from '../../base/bytes.ts';
import type { Mount } from '../../mount/mount.ts';
import { performMount, performUnmount } from '../../mount/perform.ts';

export interface MountRequest {
  readonly plan: Mount;
  readonly target: ByteString;
}

export interface UnmountRequest {
  readonly target: ByteString;
  readonly detach: boolean;
}

/** Job: mounts, in a thread with a working directory of its own. */
export function mount({ plan, target }: MountRequest): void {
  performMount(plan, target);
}

/** Job: unmounts; false where it is busy. */
export function unmount({ target, detach }: UnmountRequest): boolean {
  return performUnmount(target, { detach });
}
