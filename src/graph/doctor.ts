import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { type ByteString, toBytes } from '../base/bytes.ts';
import { probeMarks } from '../driver/marks.ts';
import { probeOverlay } from '../driver/overlay/probe.ts';
import { hasSelinux } from '../linux/label.ts';
import { kernelVersion } from '../linux/uname.ts';
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
export async function doctor(root: ByteString): Promise<readonly Diagnosis[]> {
  const directory = nearestDirectory(root);
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
  const marks = probeMarks(directory);
  say('vfs', 'works', marks.holds, marks.because, 'put the root on another filesystem');
  await using threads = await openThreads(2);
  const { overlay, dType, backing, index, userxattr, copyUp } = await probeOverlay(directory, threads.perform);
  say('overlay2', 'overlay', overlay.holds, overlay.because, 'use the driver vfs, or another filesystem');
  say('overlay2', 'd_type', dType.holds, dType.because, 'on xfs: make it anew with ftype=1');
  say(
    'overlay2',
    'index=off',
    index,
    index ? 'the kernel knows the option' : 'the kernel has no such option, and no index',
  );
  say('overlay2', 'userxattr', userxattr.holds, userxattr.because);
  say('overlay2', 'backing filesystem', backing !== '<unknown>', backing);
  const selinux = hasSelinux();
  say(
    'overlay2',
    'SELinux labels',
    selinux,
    `this kernel runs ${selinux ? '' : 'no '}SELinux${selinux ? '' : ': labels of mounts are dropped'}`,
  );
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

function nearestDirectory(path: ByteString): ByteString {
  return existsSync(toBytes(path)) ? path : nearestDirectory(dirname(path) as ByteString);
}
