import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { type ByteString, fromText } from '../base/bytes.ts';
import type { Finding } from '../base/values.ts';
import { probeOverlay } from '../driver/overlay/probe.ts';
import { makeWhiteout } from '../fs/whiteouts.ts';
import { AT_FDCWD } from '../linux/inode.ts';
import { kernelVersion } from '../linux/kernel.ts';
import { statfs } from '../linux/statfs.ts';
import { lsetxattr } from '../linux/xattr.ts';
import { openThreads } from './threads.ts';

/** One thing that a driver can or cannot do on this machine, found by trying. */
export interface Diagnosis {
  /** The driver it matters to; `all` for what every one needs. */
  readonly driver: string;
  readonly name: string;
  readonly holds: boolean;
  readonly because: string;
  readonly remedy?: string;
}

/** Everything that is known about what works under `root` (made or not): real mounts in its nearest directory that is there. */
export async function doctor(root: string): Promise<readonly Diagnosis[]> {
  const directory = nearestDirectory(resolve(root));
  const found: Diagnosis[] = [];
  const say = (driver: string, name: string, holds: boolean, because: string, remedy?: string): void => {
    found.push({ driver, name, holds, because, ...(holds || remedy === undefined ? {} : { remedy }) });
  };
  const isRoot = process.geteuid?.() === 0;
  say('all', 'root', isRoot, isRoot ? 'this process is root' : 'this process is not root', 'run it as root');
  const [major, minor] = kernelVersion();
  const hasOpenat2 = major > 5 || (major === 5 && minor >= 6);
  say(
    'all',
    'openat2',
    hasOpenat2,
    `kernel ${major}.${minor}${hasOpenat2 ? '' : ': paths are walked part by part, slower'}`,
  );
  if (!isRoot) {
    say('vfs', 'works', false, 'only root can try it', 'run it as root');
    say('overlay2', 'overlay', false, 'only root can try it', 'run it as root');
    return found;
  }
  const marks = canMark(directory);
  say(
    'vfs',
    'works',
    marks.holds,
    marks.because,
    'put the root on another filesystem, or give CAP_SYS_ADMIN and CAP_MKNOD',
  );
  await using threads = await openThreads(2);
  const { overlay, dType, backing, index, copyUp } = await probeOverlay(fromText(directory), threads.perform);
  say('overlay2', 'overlay', overlay.holds, overlay.because, 'use the driver vfs, or another filesystem');
  say('overlay2', 'd_type', dType.holds, dType.because, 'on xfs: make it anew with ftype=1');
  say(
    'overlay2',
    'index=off',
    index,
    index ? 'the kernel knows the option' : 'the kernel has no such option, and no index',
  );
  say('overlay2', 'backing filesystem', backing !== '<unknown>', backing);
  if (copyUp !== undefined) {
    const { nativeDiff, copiesOpaque, redirects, metacopy } = copyUp;
    const fast = copiesOpaque.holds
      ? 'both trees are compared'
      : 'the upper directory alone is read, redirects and metacopy with it';
    say('overlay2', 'native diff', !copiesOpaque.holds, fast, 'update the kernel to 4.8 or later');
    say('overlay2', 'native diff by Docker', nativeDiff.holds, nativeDiff.because);
    say('overlay2', 'redirect_dir', redirects.holds, redirects.because);
    say('overlay2', 'metacopy', metacopy.holds, metacopy.because);
  }
  return found;
}

function nearestDirectory(path: string): string {
  return existsSync(path) ? path : nearestDirectory(dirname(path));
}

/** Whether layers can be unpacked there: deletions are device nodes 0:0 and attributes of root's, for every driver. */
function canMark(directory: string): Finding {
  const fs = statfs(fromText(directory)).name;
  let probe: string | undefined;
  try {
    probe = mkdtempSync(join(directory, '.layerstore-probe-'));
    const path = fromText(probe);
    lsetxattr(path, 'trusted.overlay.opaque' as ByteString, Buffer.from('y'));
    makeWhiteout(AT_FDCWD, fromText(`${probe}/whiteout`));
    return { holds: true, because: `${fs} takes the marks of deletions` };
  } catch (error) {
    return { holds: false, because: `${fs} does not take the marks of deletions: ${(error as Error).message}` };
  } finally {
    if (probe !== undefined) rmSync(probe, { recursive: true, force: true });
  }
}
