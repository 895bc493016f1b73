import { mkdirSync, rmSync } from 'node:fs';
import { type ByteString, toBytes } from '../base/bytes.ts';
import type { Finding } from '../base/values.ts';
import { marksOf } from '../fs/whiteouts.ts';
import { AT_FDCWD } from '../linux/inode.ts';
import { randomUUID } from '../linux/random.ts';
import { statfs } from '../linux/statfs.ts';
import { PROBE_PREFIX } from './overlay/probe.ts';

/** Tries out in `directory` what vfs unpacks and what no filesystem without Unix's file types takes: a socket. */
export function probeMarks(directory: ByteString): Finding {
  const fs = statfs(directory).name;
  const probe = `${directory}/${PROBE_PREFIX}${randomUUID()}` as ByteString;
  try {
    mkdirSync(toBytes(probe), { mode: 0o700 });
    marksOf('plain').whiteOut(AT_FDCWD, `${probe}/whiteout` as ByteString);
    return { holds: true, because: `${fs} takes the marks of deletions` };
  } catch (error) {
    return { holds: false, because: `${fs} does not take the marks of deletions: ${(error as Error).message}` };
  } finally {
    rmSync(toBytes(probe), { recursive: true, force: true });
  }
}
