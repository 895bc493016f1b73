import type { ByteString } from '../../base/bytes.ts';
import { syncfs, Witness } from '../../linux/sync.ts';

export interface SyncRequest {
  readonly path: ByteString;
  /** Of a `Witness` of it, which has seen what was written. */
  readonly fd?: number | undefined;
}

/** Job: writes the filesystem of `path` back. */
export function sync({ path, fd }: SyncRequest): void {
  if (fd !== undefined) {
    syncfs(fd, path);
    return;
  }
  using witness = new Witness(path);
  syncfs(witness.fd, path);
}
