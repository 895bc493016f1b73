import { setTimeout as sleep } from 'node:timers/promises';
import type { ByteString } from '../base/bytes.ts';
import { AT_FDCWD, close, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, openat, renameat } from '../linux/inode.ts';
import { ENOENT } from '../linux/libc.ts';
import { randomUUID } from '../linux/random.ts';
import { LOCK_EX, tryFlock } from '../linux/sync.ts';
import type { CountedMounts } from './counted.ts';
import type { DriverSettings, Performer, SweepOptions } from './driver.ts';
import { listNames } from './home-files.ts';

// Removing a layer is a rename: its tree goes aside, under a name that no layer has, and is deleted then or later, by
// whoever comes. A tree that is being deleted is locked, so that two never work on one.

/** `.removing-<uuid>` in a home: a layer that is removed, its tree not yet. */
export const REMOVING_PREFIX = '.removing-' as ByteString;

const PAUSE_MS = 20;

/** Moves a layer's directory aside, within its home. Answers where it is now. */
export function setAside(home: ByteString, path: ByteString): ByteString {
  const aside = `${home}/${REMOVING_PREFIX}${randomUUID()}` as ByteString;
  renameat(AT_FDCWD, path, AT_FDCWD, aside);
  return aside;
}

/** What is aside in a home, and by whomever; `names`: of all that is in it. */
export function listAside(home: ByteString, names: readonly ByteString[] = listNames(home)): ByteString[] {
  return names.filter((name) => name.startsWith(REMOVING_PREFIX)).map((name) => `${home}/${name}` as ByteString);
}

/** At opening: they are the settings' to delete later, or are deleted now. */
export async function clearAside(
  paths: readonly ByteString[],
  { leftAside, perform, log }: Pick<DriverSettings, 'leftAside' | 'perform' | 'log'>,
): Promise<void> {
  if (paths.length === 0) return;
  if (leftAside !== undefined) return leftAside();
  for (const path of paths) {
    await deleteAside(path, perform, { others: 'leave' }).catch((error: unknown) => {
      log.warn(`A removed layer still takes space: ${error instanceof Error ? error.message : String(error)}`);
    });
  }
}

/**
 * Deletes a tree that is aside; when this resolves it is gone, whoever did it, or left to who is at it.
 */
export async function deleteAside(path: ByteString, perform: Performer, options: SweepOptions = {}): Promise<void> {
  const { signal, others = 'wait' } = options;
  for (;;) {
    signal?.throwIfAborted();
    const fd = openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ENOENT);
    if (fd < 0) return;
    try {
      // The lock ends with its process: of one that was killed in the middle the next one takes it up.
      if (tryFlock(fd, LOCK_EX)) return await perform.removeTree(path, options);
    } finally {
      close(fd);
    }
    if (others === 'leave') return;
    await sleep(PAUSE_MS);
  }
}

/** Whose trees are aside, and how they are deleted. */
export interface AsideHome {
  readonly home: ByteString;
  readonly perform: Performer;
  readonly counted: CountedMounts;
  /** Ends what a kill between setting a tree aside and forgetting it has left; before that tree is deleted. */
  readonly forget?: (path: ByteString) => void;
}

/** Deletes all that is aside in a home. */
export async function sweepAside({ home, perform, counted, forget }: AsideHome, options: SweepOptions): Promise<void> {
  /** One that cannot be deleted keeps nobody else's space. */
  const failures: unknown[] = [];
  const remove = async (path: ByteString): Promise<void> => {
    try {
      forget?.(path);
      await deleteAside(path, perform, options);
    } catch (error) {
      options.signal?.throwIfAborted();
      failures.push(error);
    }
  };
  if (options.others !== 'leave') {
    for (const path of listAside(home)) await remove(path);
    if (failures.length > 0) throw failures[0];
    await counted.sweeping(async () => {}); // takes the lock file of a killed one away
    return;
  }
  const seen = new Set<ByteString>();
  const sweep = async (): Promise<void> => {
    for (const path of listAside(home)) {
      seen.add(path);
      await remove(path);
    }
  };
  // Again after the lock is free: whoever set something aside meanwhile found it taken, and left it to us.
  while ((await counted.sweeping(sweep)) && !listAside(home).every((path) => seen.has(path))) {}
  if (failures.length > 0) throw failures[0];
}
