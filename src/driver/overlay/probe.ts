import { mkdirSync } from 'node:fs';
import { type ByteString, quote, toBytes } from '../../base/bytes.ts';
import { isStorageError, type StorageError } from '../../base/errors.ts';
import type { Finding } from '../../base/values.ts';
import { removeTree } from '../../fs/remove.ts';
import {
  AT_FDCWD,
  close,
  DT_UNKNOWN,
  fstat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_RDONLY,
  openat,
  readDirectory,
} from '../../linux/inode.ts';
import { hasFilesystem, inUserNamespace, moduleParameter } from '../../linux/kernel.ts';
import { ENOENT } from '../../linux/libc.ts';
import { readMountInfo } from '../../linux/mountinfo.ts';
import { randomUUID } from '../../linux/random.ts';
import { statfs } from '../../linux/statfs.ts';
import { LOCK_EX, tryFlock } from '../../linux/sync.ts';
import type { OverlayMount } from '../../mount/overlay-options.ts';
import type { Performer } from '../driver.ts';
import { listNames, withDirectory } from '../home-files.ts';
import { type CopyUpFindings, observeCopyUp, prepareCopyUp } from './copy-up.ts';

/** What overlay can do in one directory. */
export interface OverlayFindings {
  /** Whether overlay mounts there, with two lowers. */
  readonly overlay: Finding;
  /** Whether directory entries tell their type, without which overlay shows deleted files. */
  readonly dType: Finding;
  /** Docker's name of the filesystem. */
  readonly backing: string;
  /** Whether the kernel knows `index=`, so that `index=off` can be said. */
  readonly index: boolean;
  /** Whether overlay is to keep its marks in `user.` attributes: in a user namespace, where `trusted.` ones cannot be set. */
  readonly userxattr: Finding;
  /** Absent where overlay does not mount. */
  readonly copyUp?: CopyUpFindings;
}

/** Of the directories in which something is tried out. */
export const PROBE_PREFIX = '.layerstore-probe-';
/** A probe is locked as soon as it is made; one that is younger may not have come to it yet. */
const UNLOCKED_NS_MAX = 10_000_000_000n;

/** Tries it out in `directory`, by a real mount in a directory of its own that is gone afterwards. */
export async function probeOverlay(directory: ByteString, perform: Performer): Promise<OverlayFindings> {
  const probe = `${directory}/${PROBE_PREFIX}${randomUUID()}` as ByteString;
  const at = (...parts: string[]): ByteString => [probe, ...parts].join('/') as ByteString;
  mkdirSync(toBytes(probe), { mode: 0o700 });
  const lock = openat(AT_FDCWD, probe, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    tryFlock(lock, LOCK_EX);
    for (const name of ['lower1', 'lower2', 'upper', 'work', 'merged']) mkdirSync(toBytes(at(name)), { mode: 0o700 });
    const index = moduleParameter('overlay', 'index') !== undefined;
    const backing = statfs(directory).name;
    const dType = probeTypes(probe, backing);
    if (inUserNamespace()) {
      const because = 'this process is in a user namespace, where this version has no overlay';
      const userxattr = await tryUserxattr(perform, at, index);
      return { overlay: { holds: false, because }, dType, backing, index, userxattr };
    }
    const { overlay, copyUp } = await tryMount(perform, at, index, backing);
    return { overlay, dType, backing, index, userxattr: HOST, ...(copyUp === undefined ? {} : { copyUp }) };
  } finally {
    try {
      await removeProbe(probe, perform);
    } finally {
      close(lock);
    }
  }
}

/** Outside user namespaces. */
export const HOST: Finding = {
  holds: false,
  because: 'this process is in no user namespace, so trusted attributes can be set',
};

/** By a real mount: kernels before 5.11 do not know the option, but some distributions' do. */
async function tryUserxattr(
  perform: Performer,
  at: (...parts: string[]) => ByteString,
  index: boolean,
): Promise<Finding> {
  try {
    await perform.mount({ ...planOf(at, index), userxattr: true }, at('merged'));
    return { holds: true, because: 'this process is in a user namespace, and an overlay mounts with userxattr' };
  } catch (error) {
    if (!isRefusal(error)) throw error;
    return { holds: false, because: `an overlay does not mount with userxattr: ${error.message}` };
  }
}

function planOf(at: (...parts: string[]) => ByteString, index: boolean): OverlayMount {
  return {
    type: 'overlay',
    lower: [at('lower2'), at('lower1')],
    upper: at('upper'),
    work: at('work'),
    userxattr: false,
    ...(index ? { index: 'off' as const } : {}),
  };
}

async function tryMount(
  perform: Performer,
  at: (...parts: string[]) => ByteString,
  index: boolean,
  backing: string,
): Promise<Pick<OverlayFindings, 'overlay' | 'copyUp'>> {
  try {
    prepareCopyUp(at);
    await perform.mount(planOf(at, index), at('merged'));
  } catch (error) {
    if (!isRefusal(error)) throw error;
    const known = hasFilesystem('overlay') ? '' : '; /proc/filesystems does not list overlay (modprobe overlay)';
    const because = `an overlay with two lowers does not mount on ${backing}: ${error.message}${known}`;
    return { overlay: { holds: false, because } };
  }
  const overlay = { holds: true, because: `an overlay with two lowers mounts on ${backing}` };
  return { overlay, copyUp: observeCopyUp(at) };
}

/** The kernel's no; that a thread could not start, or that the disk is full, tells nothing of overlay. */
function isRefusal(error: unknown): error is StorageError {
  return isStorageError(error) && error.errno !== undefined && error.code !== 'resource-exhausted';
}

function probeTypes(probe: ByteString, backing: string): Finding {
  const fd = openat(AT_FDCWD, probe, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    const holds = readDirectory(fd, probe).every(({ type }) => type !== DT_UNKNOWN);
    return {
      holds,
      because: `${backing} ${holds ? 'tells' : 'does not tell'} the types of directory entries (d_type)`,
    };
  } finally {
    close(fd);
  }
}

async function removeProbe(probe: ByteString, perform: Performer): Promise<void> {
  const merged = `${probe}/merged`;
  // Nobody but this probe can have entered it, so detaching takes nothing from anyone.
  if (readMountInfo().some(({ mountPoint }) => mountPoint === merged)) {
    await perform.unmount(merged as ByteString, { detach: true });
  }
  // Tiny: a thread for it would take longer to start.
  const slash = probe.lastIndexOf('/');
  withDirectory((probe.slice(0, slash) || '/') as ByteString, (fd) =>
    removeTree(fd, probe.slice(slash + 1) as ByteString),
  );
}

/** Removes what killed probes left in `directory`; `names`: of all that is in it. */
export async function sweepProbes(
  directory: ByteString,
  perform: Performer,
  names: readonly ByteString[] = listNames(directory),
): Promise<void> {
  for (const name of names) {
    if (!name.startsWith(PROBE_PREFIX)) continue;
    const probe = `${directory}/${name}` as ByteString;
    const fd = openat(AT_FDCWD, probe, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ENOENT);
    if (fd < 0) continue;
    try {
      const age = BigInt(Date.now()) * 1_000_000n - fstat(fd).mtimeNs;
      const starting = listNames(probe).length === 0 && age < UNLOCKED_NS_MAX;
      if (!starting && tryFlock(fd, LOCK_EX)) await removeProbe(probe, perform);
    } finally {
      close(fd);
    }
  }
}

/** The reason for people, of a directory where overlay cannot be. */
export function whyNot(directory: ByteString, findings: OverlayFindings): string {
  return `overlay2 is not possible in ${quote(directory)}: ${findings.overlay.because}`;
}
