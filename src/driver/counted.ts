import { setTimeout as sleep } from 'node:timers/promises';
import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { Abortable, LayerId } from '../base/values.ts';
import { ensureDirectory } from '../fs/atomic.ts';
import { AT_FDCWD, close, unlinkat } from '../linux/inode.ts';
import { mountNamespace } from '../linux/kernel.ts';
import { ENOENT } from '../linux/libc.ts';
import { type MountEntry, readMountInfo } from '../linux/mountinfo.ts';
import { describeHold } from '../mount/hold.ts';
import { describeHolders, findElsewhere, findHolders, findNamespaces } from '../mount/holders.ts';
import { type Hold, Holds, type TakenHold } from '../mount/holds.ts';
import { Locks } from '../mount/locks.ts';
import type { Mount } from '../mount/mount.ts';
import type { Mounted, MountOptions, Performer } from './driver.ts';
import { type Owner, placeSmall } from './home-files.ts';
import { isWritable, mountOn, removeMountPoint, sameMount } from './mount-point.ts';

// Counted mounts, the same for every driver (driver-behaviour D3, D3b, O13): the count is the hold files of live
// holders, whether something is mounted is what the kernel says, and every step is done under the lock of the id.

/** How a driver hands out one layer. */
export interface Place {
  /** What the holder gets; with `mount`, the mount point. */
  readonly path: ByteString;
  /** Absent: the directory itself, nothing is mounted. */
  readonly mount?: {
    readonly plan: Mount;
    readonly writable: boolean;
    readonly label?: string;
    /** Done after the mount; when it fails, the mount is undone. */
    readonly after?: () => void;
  };
}

export interface CountedSettings {
  readonly run: ByteString;
  readonly log: Log;
  readonly perform: Performer;
  /** Owner of mount points. */
  readonly owner: Owner;
  /** The mount point of a layer; undefined where the driver never mounts. */
  readonly mountPoint: (id: LayerId) => ByteString | undefined;
  /** Whether what is mounted on a layer's mount point is this driver's doing. */
  readonly isOurs: (entry: MountEntry, id: LayerId) => boolean;
}

/** A live hold, and the mount it holds as its own namespace shows it. */
interface Live {
  readonly hold: Hold;
  readonly entry?: MountEntry;
  /** A process that sees the mount, where that is another namespace than ours. */
  readonly elsewhere?: number;
}

interface Situation {
  /** The mount in this namespace. */
  readonly entry?: MountEntry;
  readonly live: readonly Live[];
  /** Holds of dead processes on a mount that is still in use. */
  readonly dead: readonly Hold[];
}

const UNMOUNT_TRIES = 5;
const UNMOUNT_PAUSE_MS = 20;
const HOME_LOCK = '.home' as ByteString; // no id begins with a dot
const SWEEP_LOCK = '.sweep' as ByteString;

/** The holds and mounts of one driver's layers, shared with all processes that have the same run directory. */
export class CountedMounts {
  readonly #settings: CountedSettings;
  readonly #locks: Locks;
  readonly #holds: Holds;

  constructor(settings: CountedSettings) {
    this.#settings = settings;
    const { run } = settings;
    const at = (name: string): ByteString => `${run}/${name}` as ByteString;
    for (const path of [run, at('locks'), at('holds'), at('detached')]) {
      ensureDirectory(path, 0o700, process.geteuid?.() ?? 0, process.getegid?.() ?? 0);
    }
    this.#locks = new Locks(at('locks'));
    this.#holds = new Holds(at('holds'));
  }

  /** Runs `task` alone among all operations on `id`, in all processes. */
  alone<T>(id: LayerId, task: () => Promise<T>, options: Abortable = {}): Promise<T> {
    return this.#locks.alone(bytes(id), task, options);
  }

  /** As `alone`, for a task that has temporary names in the home, so that nobody sweeps them. */
  changing<T>(id: LayerId, task: () => Promise<T>, options: Abortable = {}): Promise<T> {
    return this.#locks.shared(HOME_LOCK, () => this.alone(id, task, options), options);
  }

  /** Runs `sweep` if nobody changes the home now, then `open` while nobody sweeps it. */
  async opening(sweep: () => Promise<void>, open: () => Promise<void>): Promise<void> {
    await this.#locks.sharedAfter(HOME_LOCK, sweep, open);
  }

  /** Runs `task` if nobody sweeps; answers whether it ran. */
  sweeping(task: () => Promise<void>): Promise<boolean> {
    return this.#locks.ifFree(SWEEP_LOCK, task);
  }

  /** Takes a hold on `id`; the first one mounts. `place` is asked under the lock. */
  mount(id: LayerId, place: () => Place, options: MountOptions): Promise<Mounted> {
    return this.alone(id, () => this.#mount(id, place(), options), options);
  }

  async #mount(id: LayerId, place: Place, options: MountOptions): Promise<Mounted> {
    const { holdName, signal } = options;
    const whose =
      holdName === undefined ? ({ kind: 'process' } as const) : ({ kind: 'named', name: holdName } as const);
    const situation = await this.#settle(id);
    const { mount } = place;
    if (mount === undefined) {
      return this.#handle(id, place.path, this.#holds.take(bytes(id), { ...whose, on: 'directory' }));
    }
    if (mount.writable) this.#checkElsewhere(id, situation);
    const { entry, live } = situation;
    const label = entry === undefined ? mount.label : this.#checkJoin(id, entry, live, mount);
    signal?.throwIfAborted();
    // The hold comes first: killed after the mount, it is what tells the next comer that the mount is nobody's.
    const hold = this.#holds.take(bytes(id), { ...whose, ...(label === undefined ? {} : { label }), on: 'mount' });
    try {
      if (entry === undefined) await this.#perform(place.path, mount, signal);
    } catch (error) {
      this.#holds.drop(bytes(id), hold);
      throw error;
    }
    for (const dead of situation.dead) this.#holds.drop(bytes(id), dead);
    return this.#handle(id, place.path, hold);
  }

  async #perform(target: ByteString, mount: NonNullable<Place['mount']>, signal?: AbortSignal): Promise<void> {
    const { owner, perform } = this.#settings;
    ensureDirectory(target, 0o700, owner.uid, owner.gid);
    try {
      await perform.mount(mount.plan, target);
      mount.after?.();
      signal?.throwIfAborted();
    } catch (error) {
      if (!(await perform.unmount(target, { detach: false }))) await perform.unmount(target, { detach: true });
      removeMountPoint(target);
      throw error;
    }
  }

  #handle(id: LayerId, path: ByteString, hold: TakenHold): Mounted {
    if (hold.fd === undefined) return { path, [Symbol.asyncDispose]: async () => {} };
    let held: TakenHold | undefined = hold;
    const dispose = (): Promise<void> =>
      this.alone(id, async () => {
        if (held === undefined) return;
        const situation = await this.#settle(id);
        const mine = situation.live.find((one) => one.hold.path === hold.path);
        // Without it somebody else has undone the mount, and `settle` or they said so: nothing is left to let go of.
        if (mine !== undefined) await this.#letGo(id, situation, mine, false);
        else close(hold.fd as number);
        if (mine !== undefined) this.#holds.drop(bytes(id), hold);
        held = undefined;
      });
    return { path, [Symbol.asyncDispose]: dispose };
  }

  /** Lets go of a named hold, or of a mount that was found without any; false when there is none. */
  release(id: LayerId, name: string, options: { readonly detach?: boolean } = {}): Promise<boolean> {
    return this.alone(id, async () => {
      const situation = await this.#settle(id);
      const { live } = situation;
      const mine =
        live.find(({ hold }) => hold.kind === 'named' && hold.name === name) ??
        live.find(({ hold }) => hold.kind === 'adopted');
      if (mine === undefined) return false;
      await this.#letGo(id, situation, mine, options.detach ?? false);
      this.#holds.drop(bytes(id), mine.hold);
      return true;
    });
  }

  /** Unmounts when `mine` is the last hold on its mount; `busy` if that cannot be. The hold itself is not touched. */
  async #letGo(id: LayerId, { entry, live }: Situation, mine: Live, detach: boolean): Promise<void> {
    if (mine.entry === undefined) return;
    const others = live.filter((one) => one !== mine && one.entry !== undefined);
    if (others.some((other) => sameMount(other.entry, mine.entry))) return;
    if (mine.elsewhere === undefined || sameMount(entry, mine.entry)) {
      await this.#unmount(id, entry as MountEntry, detach);
      // Removing a mount point would take away the mount that another namespace has on it.
      if (others.length === 0) removeMountPoint((entry as MountEntry).mountPoint);
      return;
    }
    const remedy = `Let go of it there: nsenter --mount --target ${mine.elsewhere}`;
    throw new StorageError(
      'busy',
      `Cannot unmount layer ${quote(bytes(id))}: it is mounted in the mount namespace of process ${mine.elsewhere}, not in this one. ${remedy}`,
      { layer: id, remedy },
    );
  }

  async #unmount(id: LayerId, entry: MountEntry, detach: boolean): Promise<void> {
    const { perform, run } = this.#settings;
    const target = entry.mountPoint;
    for (let tries = 1; !(await perform.unmount(target, { detach: false })); tries++) {
      if (detach) {
        const note = `since ${new Date().toISOString()}\npid ${process.pid}\ndevice ${entry.device}\n`;
        placeSmall(run, `${run}/detached/${id}` as ByteString, note, 0o600);
        await perform.unmount(target, { detach: true });
        return;
      }
      const holders = findHolders(entry);
      // The kernel ends the files of a process some time after the process: without a culprit it is worth a wait.
      if (holders.length === 0 && tries < UNMOUNT_TRIES) {
        await sleep(UNMOUNT_PAUSE_MS);
        continue;
      }
      const who = describeHolders(holders.length > 0 ? holders : findNamespaces(entry));
      const remedy = 'End that use and try again';
      throw new StorageError('busy', `Cannot unmount layer ${quote(bytes(id))}: it is in use by ${who}. ${remedy}`, {
        layer: id,
        path: target,
        remedy,
      });
    }
  }

  /**
   * What is true of `id` now, after the dead are cleared away: holds without their mount are reported and dropped, a
   * mount whose holders all died is unmounted (unless it is in use), and one that never had a holder gets one.
   */
  async #settle(id: LayerId): Promise<Situation> {
    const target = this.#settings.mountPoint(id);
    const entry = target === undefined ? undefined : mountOn(target);
    if (entry !== undefined && !this.#settings.isOurs(entry, id)) {
      throw new StorageError(
        'failed-precondition',
        `Cannot use the mount point of layer ${quote(bytes(id))}: ${quote(entry.source)} (${entry.type}) is mounted on ${quote(entry.mountPoint)}. Unmount it`,
        { layer: id, path: entry.mountPoint },
      );
    }
    const holds = this.#holds.read(bytes(id));
    const live = holds.flatMap((hold) => (hold.alive ? (this.#see(id, hold, entry, target) ?? []) : []));
    const dead = holds.filter((hold) => !hold.alive);
    const dropDead = (): void => {
      for (const hold of dead) this.#holds.drop(bytes(id), hold);
    };
    if (entry === undefined || live.some((one) => sameMount(one.entry, entry))) {
      dropDead();
      return entry === undefined ? { live, dead: [] } : { entry, live, dead: [] };
    }
    if (!holds.some(({ on }) => on === 'mount')) {
      const hold = this.#holds.take(bytes(id), { kind: 'adopted', on: 'mount' });
      this.#settings.log.info(`Layer ${quote(bytes(id))} was mounted without a hold: counted as one`);
      return { entry, live: [...live, { hold: { ...hold, alive: true }, entry }], dead: [] };
    }
    if (!(await this.#settings.perform.unmount(entry.mountPoint, { detach: false }))) return { entry, live, dead };
    if (!live.some((one) => one.entry !== undefined)) removeMountPoint(entry.mountPoint);
    dropDead();
    return { live, dead: [] };
  }

  /** The hold with its mount, or undefined (reported, dropped) where that is gone. */
  #see(id: LayerId, hold: Hold, entry: MountEntry | undefined, target: ByteString | undefined): Live | undefined {
    if (hold.on === 'directory') return { hold };
    if (hold.namespace === mountNamespace()) {
      if (entry !== undefined) return { hold, entry };
    } else {
      const seen = target === undefined ? undefined : findElsewhere(hold.namespace, target, hold);
      if (seen !== undefined) return { hold, entry: seen.entry, elsewhere: seen.pid };
    }
    this.#settings.log.warn(
      `Layer ${quote(bytes(id))} is not mounted any more, though ${describeHold(hold)} held it since ${hold.since}: the hold is dropped`,
    );
    this.#holds.drop(bytes(id), hold);
    return undefined;
  }

  /** No second writer from another mount namespace, not even by the copy that this one may have of its mount. */
  #checkElsewhere(id: LayerId, { live }: Situation): void {
    const other = live.find((one) => one.elsewhere !== undefined);
    if (other === undefined || live.some((one) => one.entry !== undefined && one.elsewhere === undefined)) return;
    throw new StorageError(
      'busy',
      `Cannot mount layer ${quote(bytes(id))} for writing: ${describeHold(other.hold)} has it mounted in another mount namespace (seen by process ${other.elsewhere})`,
      { layer: id },
    );
  }

  /** Answers the label that the mount has. */
  #checkJoin(
    id: LayerId,
    entry: MountEntry,
    live: readonly Live[],
    wanted: NonNullable<Place['mount']>,
  ): string | undefined {
    const layer = quote(bytes(id));
    const first = live.find((one) => sameMount(one.entry, entry) && one.hold.label !== undefined)?.hold.label;
    if (wanted.label !== undefined && wanted.label !== first) {
      const has = first === undefined ? 'without a label' : `with the label ${quote(first as ByteString)}`;
      throw new StorageError(
        'failed-precondition',
        `Cannot mount layer ${layer} with the label ${quote(wanted.label as ByteString)}: it is mounted ${has}`,
        { layer: id },
      );
    }
    if (wanted.writable && !isWritable(entry)) {
      const who = live.map(({ hold }) => describeHold(hold)).join(', ');
      throw new StorageError('busy', `Cannot mount layer ${layer} for writing: it is mounted read-only by ${who}`, {
        layer: id,
      });
    }
    return first;
  }

  /** Whether anybody, here or in another namespace, has it mounted or holds its directory. */
  async isMounted(id: LayerId): Promise<boolean> {
    const target = this.#settings.mountPoint(id);
    if (target !== undefined && mountOn(target) !== undefined) return true;
    const here = mountNamespace();
    return this.#holds.peek(bytes(id)).some((hold) => {
      if (!hold.alive) return false;
      if (hold.on === 'directory') return true;
      return (
        hold.namespace !== here && target !== undefined && findElsewhere(hold.namespace, target, hold) !== undefined
      );
    });
  }

  /** Whether it is mounted here for writing. */
  isMountedWritable(id: LayerId): boolean {
    const target = this.#settings.mountPoint(id);
    const entry = target === undefined ? undefined : mountOn(target);
    return entry !== undefined && isWritable(entry);
  }

  /**
   * Readies a layer for removal, under its lock: unmounts what is mounted below `directory`. `busy`, and nothing lost,
   * while a live process holds it or the kernel says so.
   */
  async clear(id: LayerId, directory: ByteString): Promise<void> {
    const { live } = await this.#settle(id);
    const other = live.find(({ hold, elsewhere }) => hold.kind === 'process' || elsewhere !== undefined);
    if (other !== undefined) throw held('remove', id, other.hold);
    const own = this.#settings.mountPoint(id);
    const below = readMountInfo().filter(
      ({ mountPoint }) => mountPoint === own || mountPoint.startsWith(`${directory}/`),
    );
    for (const entry of below.reverse()) await this.#unmount(id, entry, false);
    if (own !== undefined) removeMountPoint(own);
    for (const { hold } of live) this.#holds.drop(bytes(id), hold);
    unlinkat(AT_FDCWD, `${this.#settings.run}/detached/${id}` as ByteString, 0, ENOENT);
  }

  /**
   * Unmounts all that this driver has mounted on the mount points of `ids`, and drops the holds of it. What another
   * process holds, or something uses, stays; then it is `busy`, after the rest is done.
   */
  async cleanup(ids: readonly LayerId[]): Promise<void> {
    const refused: unknown[] = [];
    for (const id of ids) {
      try {
        await this.alone(id, () => this.#cleanupOne(id));
      } catch (error) {
        refused.push(error);
      }
    }
    const [first] = refused;
    if (refused.length <= 1) {
      if (first !== undefined) throw first;
      return;
    }
    const message = refused.map((error) => (error instanceof Error ? error.message : String(error))).join('; ');
    throw new StorageError('busy', message, { cause: first });
  }

  async #cleanupOne(id: LayerId): Promise<void> {
    const { entry, live } = await this.#settle(id);
    if (entry === undefined) return;
    const mounts = live.filter((one) => one.entry !== undefined);
    const other = mounts.find(({ hold }) => hold.kind === 'process' && hold.pid !== process.pid);
    if (other !== undefined) throw held('unmount', id, other.hold);
    await this.#unmount(id, entry, false);
    const gone = mounts.filter((one) => sameMount(one.entry, entry));
    if (gone.length === mounts.length) removeMountPoint(entry.mountPoint);
    for (const { hold } of gone) this.#holds.drop(bytes(id), hold);
  }
}

function held(action: string, id: LayerId, hold: Hold): StorageError {
  const what = `Cannot ${action} layer ${quote(bytes(id))}: ${describeHold(hold)} holds it`;
  return new StorageError('busy', what, { layer: id });
}

function bytes(id: LayerId): ByteString {
  return id as string as ByteString;
}
