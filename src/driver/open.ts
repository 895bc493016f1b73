import { type ByteString, fromText, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import type { DriverName, LayerId } from '../base/values.ts';
import type { DriverSettings, LayerDriver, Performer } from './driver.ts';
import { canonicalHome, listNames } from './home-files.ts';
import { probeMarks } from './marks.ts';
import { ownOptions, parseDriverOptions } from './options.ts';
import { listLayers } from './overlay/home.ts';
import { openOverlay2, probeDirectory } from './overlay/overlay2.ts';
import { type OverlayFindings, probeOverlay, whyNot } from './overlay/probe.ts';
import { listTrees, openVfs } from './vfs.ts';

export interface ChooseOptions {
  /** The driver that the user wants; absent: by the layers that are there, else the first that works. */
  readonly name?: string;
  /** `key=value`, of any driver: those with another driver's prefix are dropped. */
  readonly options: readonly string[];
  readonly perform: Performer;
}

export interface DriverChoice {
  readonly name: DriverName;
  /** `ROOT/NAME`. */
  readonly home: ByteString;
  /** What the driver is to read of the options. */
  readonly options: readonly string[];
  readonly because: string;
  /** For `openLayerDriver`, so that the same is not tried again. */
  readonly found?: OverlayFindings;
}

interface Trial {
  /** Why it cannot be used with this home; absent where it can. */
  readonly fault?: string;
  readonly found?: OverlayFindings;
}

interface Driver {
  readonly open: (settings: DriverSettings) => Promise<LayerDriver>;
  readonly trial: (home: ByteString, perform: Performer) => Promise<Trial>;
  /** Those of a home, without opening it. */
  readonly layers: (home: ByteString) => readonly LayerId[];
}

const DRIVERS: Readonly<Record<DriverName, Driver>> = {
  overlay2: {
    open: openOverlay2,
    layers: listLayers,
    trial: async (home, perform) => {
      const directory = probeDirectory(home);
      const found = await probeOverlay(directory, perform);
      return found.overlay.holds ? { found } : { fault: whyNot(directory, found) };
    },
  },
  vfs: {
    open: openVfs,
    layers: listTrees,
    trial: async (home) => {
      // A home with layers was tried when it was made; on a full disk they can still be read and removed.
      if (listTrees(home).length > 0) return {};
      const directory = probeDirectory(home);
      const { holds, because } = probeMarks(directory);
      return holds ? {} : { fault: `vfs is not possible in ${quote(directory)}: ${because}` };
    },
  },
};

/** In the order they are tried. */
const PRIORITY = ['overlay2', 'vfs'] as const satisfies readonly DriverName[];
/** Whose layers in the root decide. vfs never counts: it is what is left when nothing else works. */
const PRIOR = ['overlay2', 'fuse-overlayfs', 'aufs'] as const;

/** The driver of that name, opened on `settings.home`. */
export function openLayerDriver(name: DriverName, settings: DriverSettings): Promise<LayerDriver> {
  return DRIVERS[name].open(settings);
}

/**
 * Which driver is to serve `root`: the named one or the error why not; else the one that has layers there; else the
 * first that works. An option that the driver cannot read is an error before anything is tried.
 */
export async function chooseDriver(root: ByteString, choose: ChooseOptions): Promise<DriverChoice> {
  const { name: wanted } = choose;
  if (wanted !== undefined) return await take(root, known(wanted, 'it was asked for'), choose, 'it was asked for');
  const prior = PRIOR.filter((name) => hasLayers(`${root}/${name}` as ByteString));
  const [only, ...others] = prior;
  if (only !== undefined && others.length > 0) {
    const remedy = 'Name the one to use (--driver), or remove the others';
    throw new StorageError(
      'failed-precondition',
      `Cannot choose a driver in ${quote(root)}: there are layers of ${prior.map((name) => `"${name}"`).join(' and ')}. ${remedy}`,
      { remedy },
    );
  }
  if (only !== undefined) {
    const because = 'its layers are there already';
    return await take(root, known(only, because), choose, because);
  }
  const faults: string[] = [];
  for (const name of PRIORITY) {
    const options = read(name, choose);
    const home = canonicalHome(`${root}/${name}` as ByteString);
    const { fault, ...trial } = await DRIVERS[name].trial(home, choose.perform);
    if (fault === undefined) {
      const because = faults.length === 0 ? 'it is the first choice and works here' : faults.join('; ');
      return { name, home, options, because, ...trial };
    }
    faults.push(fault);
  }
  throw refusal(`Cannot choose a driver in ${quote(root)}`, faults);
}

/** The drivers of ours whose homes in `root` have layers. */
export function driversWithLayers(root: ByteString): DriverName[] {
  return PRIORITY.filter((name) => {
    const home = `${root}/${name}` as ByteString;
    return hasLayers(home) && DRIVERS[name].layers(home).length > 0;
  });
}

async function take(root: ByteString, name: DriverName, choose: ChooseOptions, because: string): Promise<DriverChoice> {
  const options = read(name, choose);
  const home = canonicalHome(`${root}/${name}` as ByteString);
  const { fault, ...trial } = await DRIVERS[name].trial(home, choose.perform);
  if (fault === undefined) return { name, home, options, because, ...trial };
  throw refusal(`Cannot use the driver "${name}" (${because})`, [fault]);
}

function refusal(action: string, faults: readonly string[]): StorageError {
  return new StorageError('unsupported', `${action}: ${faults.join('; ')}`);
}

function read(name: DriverName, { options }: ChooseOptions): string[] {
  const own = ownOptions(name, options);
  parseDriverOptions(name, own);
  return own;
}

function known(name: string, because: string): DriverName {
  if (Object.hasOwn(DRIVERS, name)) return name as DriverName;
  throw new StorageError(
    'unsupported',
    `Cannot use the driver ${quote(fromText(name))} (${because}): this version has ${PRIORITY.map((one) => `"${one}"`).join(' and ')}`,
  );
}

function hasLayers(home: ByteString): boolean {
  try {
    return listNames(home).length > 0;
  } catch (error) {
    if (error instanceof StorageError && error.errno === 'ENOTDIR') return false; // a file of that name is no home
    throw error;
  }
}
