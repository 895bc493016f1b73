import { type ByteString, quote } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';
import type { LayerId } from '../../base/values.ts';
import { TEMPORARY_PREFIX } from '../../fs/atomic.ts';
import { AT_FDCWD, lchownat } from '../../linux/inode.ts';
import { hasSelinux } from '../../linux/label.ts';
import { type MountEntry, readMountInfo } from '../../linux/mountinfo.ts';
import type { Mount } from '../../mount/mount.ts';
import { clearAside, deleteAside, listAside, setAside, sweepAside } from '../aside.ts';
import { CountedMounts, type Place } from '../counted.ts';
import type {
  Capabilities,
  ContentOptions,
  CreateOptions,
  DriverSettings,
  LayerContent,
  LayerDriver,
  LayerPaths,
  LayerReading,
  Mounted,
  MountOptions,
  PlanOptions,
  RemoveOptions,
  SweepOptions,
  SyncOptions,
} from '../driver.ts';
import {
  canonicalHome,
  ensureHome,
  exists,
  isDirectoryAt,
  isFresh,
  isOurs,
  listNames,
  type Owner,
  rootPair,
} from '../home-files.ts';
import { isLayerId, parseLayerId } from '../ids.ts';
import { parseDriverOptions, parseLayerSettings, refuseLimit } from '../options.ts';
import {
  commitLayer,
  dropLink,
  dropLinkOfAside,
  ensureLinks,
  hasLayer,
  isCommitted,
  type LinkName,
  LOWERS_MAX,
  listLayers,
  makeLayer,
  type OverlayLayer,
  pathsOf,
  readLayer,
  resolveLink,
  sweepLinks,
} from './home.ts';
import { modeOf, modeOptions } from './mode.ts';
import { type OverlayFindings, sweepProbes, whyNot } from './probe.ts';
import { overlayFindings } from './remembered.ts';

/** Opens (or makes) an overlay2 home: Docker's own layout. Not possible there: `unsupported` with the reason. */
export async function openOverlay2(settings: DriverSettings): Promise<LayerDriver> {
  const options = parseDriverOptions('overlay2', settings.options);
  const home = canonicalHome(settings.home);
  const owner = rootPair(settings.idMaps);
  const { perform, run, log, found } = settings;
  const counted = new CountedMounts({
    run,
    log,
    perform,
    owner,
    mountPoint: (id) => pathsOf(home, id).merged,
    isOurs: isOverlay2Mount,
  });
  let findings: OverlayFindings | undefined;
  await counted.opening(
    () => sweep(home, settings),
    async () => {
      const fresh = isFresh(home);
      const where = probeDirectory(home);
      findings = await overlayFindings(run, where, perform, found);
      if (!findings.overlay.holds)
        throw new StorageError('unsupported', `Cannot open the driver: ${whyNot(where, findings)}`);
      if (!findings.dType.holds) {
        const why = `${findings.dType.because}: deleted files would be seen`;
        if (fresh) throw new StorageError('unsupported', `Cannot make an overlay2 home in ${quote(home)}: ${why}`);
        log.warn(`The overlay2 home ${quote(home)} is on a filesystem that is not fit for it: ${why}`);
      }
      refuseLimit('overlay2', options.sizeBytes, findings.backing);
      ensureHome(home, owner);
      ensureLinks(home, owner);
    },
  );
  return new Overlay2({ ...settings, home }, findings as OverlayFindings, counted, owner);
}

/** The home, or its parent while the home does not exist. */
export function probeDirectory(home: ByteString): ByteString {
  return exists(home) ? home : parentOf(home);
}

function parentOf(path: ByteString): ByteString {
  return (path.slice(0, path.lastIndexOf('/')) || '/') as ByteString;
}

/** Removes what kills left, in homes of our own only. Nobody changes the home meanwhile. */
async function sweep(home: ByteString, settings: DriverSettings): Promise<void> {
  const { perform, log } = settings;
  // Beside the home too: it did not exist when the driver was chosen.
  await sweepProbes(parentOf(home), perform);
  if (probeDirectory(home) !== home || !isOurs(home)) return;
  const names = listNames(home); // once: there may be thousands
  await sweepProbes(home, perform, names);
  const left = names.filter((name) => name.startsWith(TEMPORARY_PREFIX));
  const aside = listAside(home, names);
  if (left.length + aside.length === 0) return;
  // Links first: while something is left over, a second kill lets the next opening find the links too.
  sweepLinks(home);
  for (const name of left) await perform.removeTree(`${home}/${name}` as ByteString);
  if (left.length > 0) log.info(`Removed ${left.length} left-overs of killed processes from ${quote(home)}`);
  await clearAside(aside, settings);
}

function isOverlay2Mount(entry: MountEntry, id: LayerId): boolean {
  const overlay = entry.type === 'overlay' && entry.root === '/' && entry.source === 'overlay';
  return overlay || entry.root.endsWith(`/${id}/diff`);
}

const FOLLOWED_MAX = 4096;

class Overlay2 implements LayerDriver {
  readonly name = 'overlay2';
  readonly home: ByteString;
  readonly idMaps: DriverSettings['idMaps'];
  readonly #settings: DriverSettings;
  readonly #findings: OverlayFindings;
  readonly #counted: CountedMounts;
  readonly #owner: Owner;
  /** Where links lead that were followed once. */
  readonly #followed = new Map<LinkName, LayerId>();

  constructor(settings: DriverSettings, findings: OverlayFindings, counted: CountedMounts, owner: Owner) {
    this.home = settings.home;
    this.idMaps = settings.idMaps;
    this.#settings = settings;
    this.#findings = findings;
    this.#counted = counted;
    this.#owner = owner;
  }

  /** Then an upper directory says less than what is shown: it is read through a mount. */
  get #copiesOpaque(): boolean {
    return this.#findings.copyUp?.copiesOpaque.holds ?? false;
  }

  async capabilities(): Promise<Capabilities> {
    const because = this.#copiesOpaque
      ? (this.#findings.copyUp?.copiesOpaque.because ?? '')
      : 'the diff directory is the difference to the parent';
    return {
      mode: modeOf(this.#findings),
      diff: { applyTo: 'content', diffFrom: this.#copiesOpaque ? 'mounted' : 'content', because },
      stacks: { holds: true, because: 'a layer lies on its parents, and is read through them only when mounted' },
      quota: { holds: false, because: 'this version does not set project quotas' },
      lowersMax: LOWERS_MAX,
    };
  }

  async create(id: LayerId, options: CreateOptions): Promise<void> {
    parseLayerId(id);
    const { parent, writable, settings = {}, signal } = options;
    if (parent !== undefined) parseLayerId(parent);
    refuseLimit('overlay2', parseLayerSettings('overlay2', settings, writable) ?? 0, this.#findings.backing);
    await this.#counted.changing(
      id,
      async () => {
        if (exists(pathsOf(this.home, id).layer)) {
          throw new StorageError('already-exists', `Cannot create layer ${text(id)}: it exists`, { layer: id });
        }
        const below = parent === undefined ? undefined : { id: parent, layer: readLayer(this.home, parent) };
        if (below !== undefined) this.#checkParent(id, below.id, below.layer);
        makeLayer(this.home, id, below, { owner: this.#owner, writable });
      },
      signal === undefined ? {} : { signal },
    );
  }

  #checkParent(id: LayerId, parent: LayerId, layer: OverlayLayer): void {
    const depth = layer.lowers.length + 1;
    if (depth > LOWERS_MAX) {
      throw new StorageError(
        'failed-precondition',
        `Cannot create layer ${text(id)}: max depth exceeded, it would have ${depth} layers below it, at most ${LOWERS_MAX} are possible`,
        {
          layer: id,
          remedy:
            'join layers of it in one ("layerstore export" writes the whole tree as one tar), or use the driver vfs',
        },
      );
    }
    if (!layer.committed && this.#counted.isMountedWritable(parent)) {
      this.#settings.log.warn(`Layer ${text(parent)} is mounted for writing and becomes the parent of ${text(id)}`);
    }
  }

  async remove(id: LayerId, options: RemoveOptions = {}): Promise<void> {
    parseLayerId(id);
    const { layer } = pathsOf(this.home, id);
    const aside = await this.#counted.changing(id, async () => {
      if (!hasLayer(this.home, id)) return undefined;
      await this.#counted.clear(id, layer);
      const moved = setAside(this.home, layer);
      dropLink(this.home, id, moved);
      return moved;
    });
    if (aside !== undefined && options.later !== true) await deleteAside(aside, this.#settings.perform);
  }

  sweep(options: SweepOptions = {}): Promise<void> {
    const { home } = this;
    const forget = (path: ByteString): void => dropLinkOfAside(home, path);
    return sweepAside({ home, perform: this.#settings.perform, counted: this.#counted, forget }, options);
  }

  async has(id: LayerId): Promise<boolean> {
    return hasLayer(this.home, parseLayerId(id));
  }

  async list(): Promise<LayerId[]> {
    return listLayers(this.home);
  }

  async parent(id: LayerId): Promise<LayerId | undefined> {
    const [first] = readLayer(this.home, parseLayerId(id)).lowers;
    return first === undefined ? undefined : resolveLink(this.home, first);
  }

  async metadata(id: LayerId): Promise<LayerPaths> {
    const { diff, work, merged } = pathsOf(this.home, parseLayerId(id));
    return { upper: diff, lower: this.#lowers(readLayer(this.home, id)), work, merged };
  }

  async status(): Promise<readonly (readonly [string, string])[]> {
    const { copyUp } = this.#findings;
    return [
      ['Backing Filesystem', this.#findings.backing],
      ['Supports d_type', String(this.#findings.dType.holds)],
      ['Native Overlay Diff', String(!this.#copiesOpaque)],
      ['userxattr', String(this.#findings.userxattr.holds)],
      ['Using metacopy', String(copyUp?.metacopy.holds ?? false)],
      ['redirect_dir', copyUp?.redirects.holds === true ? 'on' : 'off'],
      [
        'Native Overlay Diff by Docker',
        copyUp === undefined ? 'unknown' : `${copyUp.nativeDiff.holds}: ${copyUp.nativeDiff.because}`,
      ],
    ];
  }

  async content(id: LayerId, options: ContentOptions = {}): Promise<LayerContent> {
    const layer = readLayer(this.home, parseLayerId(id));
    return this.#content(id, options.lowers === false ? [] : this.#known(layer));
  }

  #content(id: LayerId, lowers: readonly ByteString[]): LayerContent {
    const { diff, layer } = pathsOf(this.home, id);
    return { kind: 'tree', root: diff, lowers, whiteouts: 'overlay', staging: `${layer}/staging` as ByteString };
  }

  async reading(id: LayerId, options: Pick<PlanOptions, 'mode'> = {}): Promise<LayerReading> {
    const layer = readLayer(this.home, parseLayerId(id));
    const below = layer.lowers.map((link) => resolveLink(this.home, link)); // mounts may go by it
    const lowers = below.map((lower) => pathsOf(this.home, lower).diff);
    return {
      content: this.#content(id, []),
      parent: below[0],
      mounts: [this.#plan(id, layer, { ...options, readonly: true }, lowers)],
    };
  }

  /** Top first, one spelling for each layer in whatever is handed out. */
  #lowers(layer: OverlayLayer): ByteString[] {
    return layer.lowers.map((link) => pathsOf(this.home, resolveLink(this.home, link)).diff);
  }

  /** As `#lowers`, each link followed once: an image of a hundred layers has thousands. */
  #known({ lowers }: OverlayLayer): ByteString[] {
    return lowers.map((link) => {
      if (this.#followed.size > FOLLOWED_MAX) this.#followed.clear(); // layers come and go
      const known = this.#followed.get(link);
      if (known !== undefined) {
        const { diff } = pathsOf(this.home, known);
        if (isDirectoryAt(diff)) return diff;
      }
      const id = resolveLink(this.home, link); // also where it leads to nothing any more: that is told there
      this.#followed.set(link, id);
      return pathsOf(this.home, id).diff;
    });
  }

  async seal(ids: readonly LayerId[], options: SyncOptions = {}): Promise<void> {
    for (const id of ids) {
      parseLayerId(id);
      if (isCommitted(this.home, id)) continue; // for good
      await this.#counted.changing(id, async () => {
        const layer = readLayer(this.home, id);
        if (!layer.committed && this.#counted.isMountedWritable(id)) {
          throw new StorageError('busy', `Cannot seal layer ${text(id)}: it is mounted for writing`, { layer: id });
        }
        commitLayer(this.home, id);
      });
    }
    if (ids.length > 0) await this.#settings.perform.sync(this.home, options);
  }

  async mounts(id: LayerId, options: PlanOptions = {}): Promise<readonly Mount[]> {
    const layer = readLayer(this.home, parseLayerId(id));
    return [this.#plan(id, layer, options)];
  }

  #plan(id: LayerId, layer: OverlayLayer, options: PlanOptions, lowers = this.#lowers(layer)): Mount {
    const { diff, work } = pathsOf(this.home, id);
    const readonly = layer.committed || options.readonly === true;
    if (layer.lowers.length === 0) return { type: 'bind', source: diff, readonly };
    const short = layer.lowers.map((link) => `l/${link}` as ByteString);
    const label = this.#label(options.label);
    const base = this.home;
    const common = {
      type: 'overlay' as const,
      userxattr: options.mode?.userxattr ?? false,
      ...(this.#findings.index ? { index: 'off' as const } : {}),
      ...modeOptions(modeOf(this.#findings), options.mode),
      ...(label === undefined ? {} : { label }),
    };
    if (readonly) {
      const top = `l/${layer.link}` as ByteString;
      return { ...common, lower: [diff, ...lowers], short: { base, lower: [top, ...short] } };
    }
    const upper = { upper: `${id}/diff` as ByteString, work: `${id}/work` as ByteString };
    return { ...common, lower: lowers, upper: diff, work, short: { base, lower: short, ...upper } };
  }

  /** Without SELinux a label is EINVAL in mount(2), and means nothing. */
  #label(label: string | undefined): string | undefined {
    if (label === undefined || label === '') return undefined;
    if (hasSelinux()) return label;
    this.#settings.log.debug(`The label ${quote(label as ByteString)} is dropped: this kernel runs no SELinux`);
    return undefined;
  }

  async mount(id: LayerId, options: MountOptions = {}): Promise<Mounted> {
    return await this.#counted.mount(parseLayerId(id), () => this.#place(id, options), options);
  }

  #place(id: LayerId, options: MountOptions): Place {
    const layer = readLayer(this.home, id);
    const { diff, merged, work } = pathsOf(this.home, id);
    // Docker's way: a base is its directory, writable or not. Who asks for read-only gets it from the kernel.
    if (layer.lowers.length === 0 && options.readonly !== true) return { path: diff };
    const plan = this.#plan(id, layer, options);
    const label = plan.type === 'overlay' ? plan.label : undefined;
    const writable = plan.type === 'overlay' && plan.upper !== undefined;
    const after = (): void => {
      lchownat(AT_FDCWD, `${work}/work` as ByteString, this.#owner.uid, this.#owner.gid);
    };
    return {
      path: merged,
      mount: { plan, writable, ...(label === undefined ? {} : { label }), ...(writable ? { after } : {}) },
    };
  }

  async release(id: LayerId, holdName: string, options: { readonly detach?: boolean } = {}): Promise<boolean> {
    return await this.#counted.release(parseLayerId(id), holdName, options);
  }

  async isMounted(id: LayerId): Promise<boolean> {
    return this.#counted.isMounted(parseLayerId(id));
  }

  async cleanup(): Promise<void> {
    const ids = readMountInfo()
      .reverse()
      .map((entry) => ({ entry, id: this.#mountedLayer(entry.mountPoint) }))
      .flatMap(({ entry, id }) => (id !== undefined && isOverlay2Mount(entry, id) ? [id] : []));
    await this.#counted.cleanup([...new Set(ids)]);
  }

  #mountedLayer(mountPoint: ByteString): LayerId | undefined {
    const [id, rest] = mountPoint.slice(this.home.length + 1).split('/merged');
    const mine = mountPoint.startsWith(`${this.home}/`) && rest === '' && isLayerId(id as ByteString);
    return mine ? (id as LayerId) : undefined;
  }

  /** Holds last as long as their process or their name; a driver that is let go of ends none of them. */
  async [Symbol.asyncDispose](): Promise<void> {}
}

function text(id: LayerId): string {
  return quote(id as string as ByteString);
}
