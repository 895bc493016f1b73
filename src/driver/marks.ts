import { randomUUID } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { type ByteString, toBytes } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import type { Finding } from '../base/values.ts';
import { makeWhiteout } from '../fs/whiteouts.ts';
import { AT_FDCWD } from '../linux/inode.ts';
import { statfs } from '../linux/statfs.ts';
import { lsetxattr } from '../linux/xattr.ts';
import { PROBE_PREFIX } from './overlay/probe.ts';

/** Whether layers can be unpacked in a directory. */
export interface MarksFinding extends Finding {
  /** It is this process that may not, not the filesystem that cannot. */
  readonly lacksRights: boolean;
}

/** What gives the rights that are missing. */
export const RIGHTS_REMEDY = "run it as the host's root, with CAP_SYS_ADMIN";

/** Tries out the marks of deletions, which every driver unpacks: device nodes 0:0 and attributes of root's. */
export function probeMarks(directory: ByteString): MarksFinding {
  const fs = statfs(directory).name;
  const probe = `${directory}/${PROBE_PREFIX}${randomUUID()}` as ByteString;
  try {
    mkdirSync(toBytes(probe), { mode: 0o700 });
    lsetxattr(probe, 'trusted.overlay.opaque' as ByteString, Buffer.from('y'));
    makeWhiteout(AT_FDCWD, `${probe}/whiteout` as ByteString);
    return { holds: true, lacksRights: false, because: `${fs} takes the marks of deletions` };
  } catch (error) {
    // xattr(7): EPERM for `trusted.*` is the lack of CAP_SYS_ADMIN; what cannot hold them says EOPNOTSUPP.
    const { errno, syscall } = error as StorageError;
    const lacksRights =
      error instanceof StorageError && errno === 'EPERM' && (syscall?.startsWith('set attribute') ?? false);
    const why = (error as Error).message;
    const because = lacksRights
      ? `this process may not set attributes of root's: ${why}`
      : `${fs} does not take the marks of deletions: ${why}`;
    return { holds: false, lacksRights, because };
  } finally {
    rmSync(toBytes(probe), { recursive: true, force: true });
  }
}
