import { type ByteString, quote, toBytes } from '../base/bytes.ts';
import { digestOf, hexOf } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';
import { ensureDirectory, TEMPORARY_PREFIX, temporaryName } from '../fs/atomic.ts';
import { AT_FDCWD, lstatat, RENAME_NOREPLACE, renameat, renameat2, unlinkat } from '../linux/inode.ts';
import { ENOENT } from '../linux/libc.ts';
import { statfs } from '../linux/statfs.ts';
import type { Mount } from '../mount/mount.ts';
import { clearAside, deleteAside, listAside, setAside, sweepAside } from './aside.ts';
import { CountedMounts, type Place } from './counted.ts';
import type {
  Capabilities,
  CreateOptions,
  DriverSettings,
  LayerContent,
  LayerDriver,
  LayerPaths,
  LayerReading,
  Mounted,
  MountOptions,
  RemoveOptions,
  SweepOptions,
  SyncOptions,
} from './driver.ts';
import {
  canonicalHome,
  ensureHome,
  exists,
  isDirectoryAt,
  isOurs,
  listNames,
  type Owner,
  placeSmall,
  readSmall,
  rootPair,
  tampered,
} from './home-files.ts';
import { isLayerId, parseLayerId } from './ids.ts';
import { parseDriverOptions, parseLayerSettings, refuseLimit } from './options.ts';
import { sweepProbes } from './overlay/probe.ts';

// HOME/dir/ID is a layer, a whole copy of its parent and what was done to it since; HOME/layers/ID says what it is.
// Writers get the directory itself; a read-only view is a bind mount on HOME/mnt/ID.

const STAGING_PREFIX = '.applying-';

/** What `layers/ID` says. A home of Docker's has no such files: then it is a writable layer of no known parent. */
export interface VfsRecord {
  readonly parent?: LayerId;
  readonly state: 'writable' | 'read-only' | 'sealed';
}

/** Opens (or makes) a vfs home. It needs no overlayfs and no right to mount; unpacking needs device nodes 0:0 and attributes. */
export async function openVfs(settings: DriverSettings): Promise<LayerDriver> {
  const options = parseDriverOptions('vfs', settings.options);
  const home = canonicalHome(settings.home);
  const owner = rootPair(settings.idMaps);
  const { perform, run, log } = settings;
  const counted = new CountedMounts({
    run,
    log,
    perform,
    owner,
    mountPoint: (id) => viewPath(home, id),
    isOurs: (entry, id) => entry.root.endsWith(`/dir/${id}`),
  });
  await counted.opening(
    () => sweep(home, settings),
    async () => {
      ensureHome(home, owner);
      for (const name of ['dir', 'layers', 'mnt']) {
        ensureDirectory(`${home}/${name}` as ByteString, 0o710, process.geteuid?.() ?? 0, owner.gid);
      }
      refuseLimit('vfs', options.sizeBytes, statfs(home).name);
    },
  );
  return new Vfs({ ...settings, home }, counted, owner);
}

/** Removes what kills left, in homes of our own only. Nobody changes the home meanwhile. */
async function sweep(home: ByteString, settings: DriverSettings): Promise<void> {
  const { perform, log } = settings;
  await sweepProbes((home.slice(0, home.lastIndexOf('/')) || '/') as ByteString, perform); // of whoever was killed choosing
  if (!isOurs(home)) return;
  // Always: whoever deleted a tree that a killed one had set aside knew no record of it.
  const trees = new Set(listNames(treePath(home, '' as LayerId)));
  for (const name of listNames(recordPath(home, '' as LayerId))) {
    if (!trees.has(name)) unlinkat(AT_FDCWD, recordPath(home, name as string as LayerId), 0, ENOENT);
  }
  const names = listNames(home);
  const left = names.filter((name) => name.startsWith(TEMPORARY_PREFIX));
  const aside = listAside(home, names);
  if (left.length + aside.length === 0) return;
  for (const name of left) await perform.removeTree(`${home}/${name}` as ByteString);
  if (left.length > 0) log.info(`Removed ${left.length} left-overs of killed processes from ${quote(home)}`);
  await clearAside(aside, settings);
}

/** The layers of a home, or of one that may become a home. */
export function listTrees(home: ByteString): LayerId[] {
  return listNames(`${home}/dir` as ByteString)
    .filter(isLayerId)
    .map((name) => name as string as LayerId)
    .filter((id) => isDirectoryAt(treePath(home, id)));
}

function treePath(home: ByteString, id: LayerId): ByteString {
  return `${home}/dir/${id}` as ByteString;
}

/** Where a read-only view is mounted. */
function viewPath(home: ByteString, id: LayerId): ByteString {
  return `${home}/mnt/${id}` as ByteString;
}

function recordPath(home: ByteString, id: LayerId): ByteString {
  return `${home}/layers/${id}` as ByteString;
}

/**
 * Where a layer is unpacked before it is merged into its copy. Swept with its layer, not with the temporary names. By
 * a digest: a prefix and an id of 255 bytes are no file name.
 */
function stagingPath(home: ByteString, id: LayerId): ByteString {
  return `${home}/${STAGING_PREFIX}${hexOf(digestOf(toBytes(id as string as ByteString)))}` as ByteString;
}

/** `parent ID` (absent for a base) and `state STATE`, a line each; `path` is for the error. */
export function parseVfsRecord(source: ByteString, path: ByteString): VfsRecord {
  const [, parent, state] = /^(?:parent ([^\n]+)\n)?state (writable|read-only|sealed)\n$/.exec(source) ?? [];
  if (state === undefined || (parent !== undefined && !isLayerId(parent as ByteString))) {
    throw tampered(path, 'it does not say what a layer is');
  }
  return { state: state as VfsRecord['state'], ...(parent === undefined ? {} : { parent: parent as LayerId }) };
}

export function formatVfsRecord({ parent, state }: VfsRecord): string {
  return `${parent === undefined ? '' : `parent ${parent}\n`}state ${state}\n`;
}

class Vfs implements LayerDriver {
  readonly name = 'vfs';
  readonly home: ByteString;
  readonly idMaps: DriverSettings['idMaps'];
  readonly #settings: DriverSettings;
  readonly #counted: CountedMounts;
  readonly #owner: Owner;

  constructor(settings: DriverSettings, counted: CountedMounts, owner: Owner) {
    this.home = settings.home;
    this.idMaps = settings.idMaps;
    this.#settings = settings;
    this.#counted = counted;
    this.#owner = owner;
  }

  async capabilities(): Promise<Capabilities> {
    return {
      mode: {},
      diff: { applyTo: 'content', diffFrom: 'mounted', because: 'a layer is a full copy of its parent' },
      stacks: { holds: false, because: 'a layer is a full copy of its parent, which must be whole before' },
      quota: { holds: false, because: 'this version does not set project quotas' },
      lowersMax: Number.MAX_SAFE_INTEGER,
    };
  }

  async create(id: LayerId, options: CreateOptions): Promise<void> {
    parseLayerId(id);
    const { parent, writable, settings = {}, signal } = options;
    if (parent !== undefined) parseLayerId(parent);
    refuseLimit('vfs', parseLayerSettings('vfs', settings, writable) ?? 0, statfs(this.home).name);
    const state = writable ? 'writable' : 'read-only';
    await this.#counted.changing(
      id,
      async () => {
        if (exists(treePath(this.home, id))) {
          throw new StorageError('already-exists', `Cannot create layer ${text(id)}: it exists`, { layer: id });
        }
        if (parent !== undefined) this.#read(parent);
        await this.#make(id, { state, ...(parent === undefined ? {} : { parent }) }, signal);
      },
      signal === undefined ? {} : { signal },
    );
  }

  async #make(id: LayerId, record: VfsRecord, signal: AbortSignal | undefined): Promise<void> {
    const { home } = this;
    const temporary = `${home}/${temporaryName()}` as ByteString;
    const tree = treePath(home, id);
    let made = temporary;
    try {
      ensureDirectory(temporary, 0o755, this.#owner.uid, this.#owner.gid);
      if (record.parent !== undefined) {
        const from = treePath(home, record.parent);
        await this.#settings.perform.copyTree(from, temporary, signal === undefined ? {} : { signal });
      }
      signal?.throwIfAborted();
      placeSmall(home, recordPath(home, id), formatVfsRecord(record), 0o644);
      renameat2(AT_FDCWD, temporary, AT_FDCWD, tree, RENAME_NOREPLACE);
      made = tree;
      if (record.parent !== undefined) this.#seal(record.parent);
    } catch (error) {
      if (made === tree) {
        renameat(AT_FDCWD, tree, AT_FDCWD, temporary);
      }
      unlinkat(AT_FDCWD, recordPath(home, id), 0, ENOENT);
      await this.#settings.perform.removeTree(temporary);
      throw error;
    }
  }

  /** Absent: not-found; a record that no driver wrote: corrupt. */
  #read(id: LayerId): VfsRecord {
    if (!isDirectoryAt(treePath(this.home, id))) {
      throw new StorageError('not-found', `Cannot find layer ${text(id)} in ${quote(this.home)}`, { layer: id });
    }
    const path = recordPath(this.home, id);
    const record = readSmall(path);
    return record === undefined ? { state: 'writable' } : parseVfsRecord(record, path);
  }

  #seal(id: LayerId): void {
    const record = this.#read(id);
    if (record.state === 'sealed') return;
    placeSmall(this.home, recordPath(this.home, id), formatVfsRecord({ ...record, state: 'sealed' }), 0o644);
  }

  async remove(id: LayerId, options: RemoveOptions = {}): Promise<void> {
    parseLayerId(id);
    const tree = treePath(this.home, id);
    const aside = await this.#counted.changing(id, async () => {
      const staging = stagingPath(this.home, id);
      // A held layer may be in the middle of an apply: what is busy loses nothing, its staging included.
      if (exists(tree)) await this.#counted.clear(id, tree);
      await this.#settings.perform.removeTree(staging);
      const moved = exists(tree) ? setAside(this.home, tree) : undefined; // what a kill left of a removal is its record
      unlinkat(AT_FDCWD, recordPath(this.home, id), 0, ENOENT);
      return moved;
    });
    if (aside !== undefined && options.later !== true) await deleteAside(aside, this.#settings.perform);
  }

  sweep(options: SweepOptions = {}): Promise<void> {
    return sweepAside({ home: this.home, perform: this.#settings.perform, counted: this.#counted }, options);
  }

  async has(id: LayerId): Promise<boolean> {
    return isDirectoryAt(treePath(this.home, parseLayerId(id)));
  }

  async list(): Promise<LayerId[]> {
    return listTrees(this.home);
  }

  async parent(id: LayerId): Promise<LayerId | undefined> {
    return this.#read(parseLayerId(id)).parent;
  }

  async metadata(id: LayerId): Promise<LayerPaths> {
    this.#read(parseLayerId(id));
    const tree = treePath(this.home, id);
    return { upper: tree, lower: [], merged: tree };
  }

  async status(): Promise<readonly (readonly [string, string])[]> {
    return [['Backing Filesystem', statfs(this.home).name]];
  }

  async content(id: LayerId): Promise<LayerContent> {
    return this.#content(id, this.#read(parseLayerId(id)));
  }

  #content(id: LayerId, { parent, state }: VfsRecord): LayerContent {
    // A writable layer's record is written once, before anything is written to the layer.
    const made = state === 'writable' ? lstatat(AT_FDCWD, recordPath(this.home, id), ENOENT) : undefined;
    return {
      kind: 'tree',
      root: treePath(this.home, id),
      lowers: parent === undefined ? [] : [treePath(this.home, parent)],
      whiteouts: 'none',
      staging: stagingPath(this.home, id),
      ...(made === undefined ? {} : { createdNs: made.mtimeNs }),
    };
  }

  async seal(ids: readonly LayerId[], options: SyncOptions = {}): Promise<void> {
    for (const id of ids) {
      parseLayerId(id);
      await this.#counted.changing(id, async () => this.#seal(id));
    }
    if (ids.length > 0) await this.#settings.perform.sync(this.home, options);
  }

  async mounts(id: LayerId, options: { readonly readonly?: boolean } = {}): Promise<readonly Mount[]> {
    const { state } = this.#read(parseLayerId(id));
    return [
      { type: 'bind', source: treePath(this.home, id), readonly: state === 'sealed' || options.readonly === true },
    ];
  }

  async reading(id: LayerId): Promise<LayerReading> {
    const record = this.#read(parseLayerId(id));
    const content = { ...this.#content(id, record), lowers: [] };
    return { content, parent: record.parent, mounts: [{ type: 'bind', source: content.root, readonly: true }] };
  }

  async mount(id: LayerId, options: MountOptions = {}): Promise<Mounted> {
    parseLayerId(id);
    const place = (): Place => {
      this.#read(id);
      const source = treePath(this.home, id);
      if (options.readonly !== true) return { path: source };
      const plan = { type: 'bind', source, readonly: true } as const;
      return { path: viewPath(this.home, id), mount: { plan, writable: false } };
    };
    return await this.#counted.mount(id, place, options);
  }

  async release(id: LayerId, holdName: string, options: { readonly detach?: boolean } = {}): Promise<boolean> {
    return await this.#counted.release(parseLayerId(id), holdName, options);
  }

  async isMounted(id: LayerId): Promise<boolean> {
    return await this.#counted.isMounted(parseLayerId(id));
  }

  async cleanup(): Promise<void> {
    const views = listNames(`${this.home}/mnt` as ByteString).filter(isLayerId);
    await this.#counted.cleanup(views.map((name) => name as string as LayerId));
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}

function text(id: LayerId): string {
  return quote(id as string as ByteString);
}
