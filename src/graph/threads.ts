import { stat } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { ByteString } from '../base/bytes.ts';
import { Pool } from '../base/pool.ts';
import type { RingMemory } from '../base/ring.ts';
import { unlessAborted } from '../base/until.ts';
import type { Performer } from '../driver/driver.ts';
import { countCyclesBeside } from '../linux/cycles.ts';
import { CLONE_FS, unshare } from '../linux/namespace.ts';
import { syncfsBeside, Witness } from '../linux/sync.ts';
import { type CompressOptions, type Crew, Crews } from './crew.ts';
import type { HashRequest } from './jobs/hash.ts';
import type { MountRequest, UnmountRequest } from './jobs/mounting.ts';
import type { SyncRequest } from './jobs/sync.ts';
import type { CopyRequest } from './jobs/trees.ts';

/** The threads of one store or bare driver: a pool for long jobs, and one thread for calls that must not wait. */
export interface Threads extends AsyncDisposable {
  readonly jobs: Pool;
  /** How many layers are unpacked at a time; with 1 each in one thread, however large. */
  readonly width: number;
  /** Whether a job that can be done by two threads should be: another core has nothing to do, and to start one pays. */
  readonly forTwo: boolean;
  readonly here: boolean;
  readonly perform: Performer;
  /** Whether `hash` is at work. */
  readonly hashes: boolean;
  /** Hashes all that goes through a tapped ring, and puts the digest into its place. */
  hash(ring: RingMemory, to: SharedArrayBuffer): Promise<void>;
  /** As `perform.sync`, beside jobs that go on. */
  writeBack(path: ByteString): Promise<void>;
  /** Who compresses what a job writes. */
  crew(options: CompressOptions): Crew;
}

/** Threads that are started at once, for a caller who knows what comes. */
export interface ThreadsAhead {
  /** For jobs: one to compare or to pack, two to unpack or to commit, less with `here`. */
  readonly jobs?: number;
  /** For mounting and unmounting. */
  readonly mounts?: boolean;
  /**
   * Short lists, tars and commits of changes are made without a thread, and so are mounts: for a program that does this alone. Its main thread gets a root and a working directory of its own, and other mounts meanwhile.
   */
  readonly here?: boolean;
}

/** In the asker's thread, which gets a working directory of its own with the first mount; syncing, which may take long, in one of libuv's. */
function performingHere(): Pick<Performer, 'mount' | 'unmount' | 'sync'> {
  let isApart = false;
  return {
    async mount(plan, target) {
      const { performMount } = await import('../mount/perform.ts');
      if (!isApart) unshare(CLONE_FS);
      isApart = true;
      performMount(plan, target);
    },
    async unmount(target, how) {
      const { performUnmount } = await import('../mount/perform.ts');
      return performUnmount(target, how);
    },
    async sync(path, { by, ...options } = {}) {
      using own = by === undefined ? new Witness(path) : undefined;
      await unlessAborted(syncfsBeside((by ?? (own as Witness)).fd, path), options);
    },
  };
}

/**
 * Nothing is started before it is needed, but `ahead`. `size`: threads that unpack at a time, at least 1; default: as many
 * as there are processors.
 */
export async function openThreads(size?: number, ahead: ThreadsAhead = {}): Promise<Threads> {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  const known: { width?: number } = {};
  const width = (): number => (known.width ??= Math.max(1, size ?? availableParallelism()));
  // A commit takes two threads that wait for each other.
  const jobs = new Pool(new URL(`./jobs/thread.${extension}`, import.meta.url), () => Math.max(2, width()));
  const small = new URL(`./jobs/control.${extension}`, import.meta.url);
  const control = new Pool(small, 2);
  const hashing = new Pool(small, 1);
  const removal = new Pool(small, 1); // may take long, and starts sooner than a job thread
  if (ahead.jobs !== undefined && ahead.jobs > 0) jobs.warm(ahead.jobs);
  if (ahead.mounts === true) control.warm(1);
  // libuv's own threads inherit the root of whichever thread starts them: one of them must exist before the first jail.
  stat('/', () => {}); // all of them run when the call returns (uv_queue_work, threadpool.c)
  countCyclesBeside();
  // Starting a thread takes longer than most of these calls.
  const light = (): Pool => (jobs.free && control.idle === 0 ? jobs : control);
  const sync = (pool: Pool, request: SyncRequest): Promise<void> => pool.run({ name: 'sync', request });
  const performing: Pick<Performer, 'mount' | 'unmount' | 'sync'> = {
    mount: (plan, target) => light().run({ name: 'mount', request: { plan, target } satisfies MountRequest }),
    unmount: (target, { detach }) =>
      light().run({ name: 'unmount', request: { target, detach } satisfies UnmountRequest }),
    sync: (path, { by, ...options } = {}) => unlessAborted(sync(light(), { path, fd: by?.fd }), options),
  };
  const perform: Performer = {
    ...(ahead.here === true ? performingHere() : performing),
    removeTree: (path, { signal } = {}) => removal.run({ name: 'remove', request: path }, { signal }),
    copyTree: (from, to, { signal } = {}) =>
      jobs.run({ name: 'copy', request: { from, to } satisfies CopyRequest }, { signal }),
  };
  const crews = new Crews(width);
  return {
    jobs,
    get width() {
      return width();
    },
    perform,
    here: ahead.here ?? false,
    get forTwo() {
      const isBrief = ahead.jobs !== undefined; // it ends before a second thread has paid
      return jobs.busy === 0 && (jobs.idle > 1 || !isBrief) && width() > 1;
    },
    get hashes() {
      return hashing.taken > 0;
    },
    hash: (ring, to) => hashing.run({ name: 'hash', request: { ring, to } satisfies HashRequest }),
    writeBack: (path) => sync(control, { path }),
    crew: (options) => crews.crew(options),
    async [Symbol.asyncDispose]() {
      await Promise.all([jobs, control, hashing, removal].map((pool) => pool[Symbol.asyncDispose]()));
    },
  };
}
