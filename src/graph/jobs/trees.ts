import type { ByteString } from '../../base/bytes.ts';
import type { JobContext } from '../../base/pool.ts';
import { mergeLayer } from '../../diff/merge.ts';
import { copyTree } from '../../fs/copy.ts';
import { treeSizeBytes } from '../../fs/usage.ts';
import type { MarkStyle } from '../../fs/whiteouts.ts';
import { AT_FDCWD, mkdirat } from '../../linux/inode.ts';

// Jobs on whole trees by the host's paths, each one call of a lower floor.

export interface MergeRequest {
  readonly staged: ByteString;
  readonly target: ByteString;
  readonly style: MarkStyle;
}

export function merge(request: MergeRequest, context: JobContext): void {
  mergeLayer(request.staged, request.target, request.style, () => context.check());
}

export interface CopyRequest {
  readonly from: ByteString;
  readonly to: ByteString;
}

export function copy(request: CopyRequest, context: JobContext): void {
  copyTree(request.from, request.to, () => context.check());
}

/** A new directory, 0700. */
export function makeDirectory(path: ByteString): void {
  mkdirat(AT_FDCWD, path, 0o700);
}

export function usage(root: ByteString, context: JobContext): number {
  return treeSizeBytes(root, () => context.check());
}
