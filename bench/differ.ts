import { appendFileSync, chmodSync, closeSync, mkdirSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import type { LayerMode } from '../src/driver/driver.ts';
import { storageDriver } from '../src/graph/storage-driver.ts';
import { openThreads } from '../src/graph/threads.ts';
import { fromText, type LayerId, openDriver, type StorageDriver, toText } from '../src/index.ts';
import { filesystem } from '../test/kit/filesystems.ts';
import { command } from './command.ts';
import { generateTree, type Layer, TREE, unpackImage, Walking, writtenLayer } from './differ-layers.ts';
import { middleFile, modify } from './edits.ts';
import { fixturesFrom } from './fixtures.ts';
import { runInside } from './inside.ts';
import { describeMachine, loadAverage } from './measure.ts';
import { seconds, writeSection } from './report.ts';
import { medianOf } from './statistics.ts';

// What the differ takes within one process that does nothing else, with the walk that takes over where the upper
// directory does not tell beside it. README.md says more.

const USAGE = `./try bench/differ.ts [--images DIR] [--image NAME] [--entries N] [--changed N] [--samples N] [--scratch DIR] [--write]`;
/** Sparse. A block and an inode for each file of the generated tree, twice. */
const FILESYSTEM_MIB = 24 * 1024;
/** A walk that takes longer is measured once. */
const LONG_SECONDS = 2;
/** A call that is shorter is measured more often: a few milliseconds are anybody's noise. */
const SHORT_SECONDS = 0.1;
const SHORT_FACTOR = 5;
/** A tar of some 0.3 s is made more often too: a hypervisor that first has to find memory for it may double that. */
const TARS_FACTOR = 3;
/** redirect_dir and metacopy may cost so much more. */
const MODE_FACTOR = 1.3;
const TAR_FACTOR = 1.2;

const MODES: readonly (readonly [string, LayerMode])[] = [
  ['', { redirect: 'off', metacopy: 'off' }],
  [', redirect_dir=on', { redirect: 'on', metacopy: 'off' }],
  [', metacopy=on', { redirect: 'on', metacopy: 'on' }],
];

const { values: options } = parseArgs({
  options: {
    images: { type: 'string' },
    image: { type: 'string' },
    entries: { type: 'string', default: '700000' },
    changed: { type: 'string', default: '10000' },
    samples: { type: 'string', default: '5' },
    scratch: { type: 'string' },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/** One line of the table; all numbers are seconds. */
interface Line {
  readonly what: string;
  readonly samples: readonly number[];
  /** With the threads still to be started, or the first of its kind. */
  readonly first: number;
  readonly target?: number;
  /** What the target is made of. */
  readonly means?: string;
  readonly walks: readonly number[];
}

/** A layer whose changes are listed. */
interface Case {
  readonly what: string;
  readonly layer: Layer;
  readonly how?: { readonly renames: 'collapse' };
}

async function main(scratch: string): Promise<void> {
  const images = options.images ?? (process.env['LAYERSTORE_IMAGES'] || undefined);
  const wanted = options.image ?? (images === undefined ? 'generated' : 'node-app');
  const [fixture] = await fixturesFrom(images === undefined ? undefined : resolve(images), [wanted], scratch);
  if (fixture === undefined) throw new Error('Cannot measure: there is no image');
  const [samples, entries, changed] = [Number(options.samples), Number(options.entries), Number(options.changed)];
  const before = loadAverage();

  await using place = await filesystem('ext4', FILESYSTEM_MIB, ['-i', '8192']);
  const at = (name: string): string => join(place.path, name);
  mkdirSync(at('scratch'));
  const driver = await openDriver({ root: at('layers'), driver: 'overlay2', run: at('run') });
  await using walking = storageDriver(new Walking(driver), await openThreads(2), fromText(at('scratch')));
  const bench = new Bench(driver, walking, place.path, samples);

  const image = await unpackImage(driver, fixture);
  const lines = [...(await bench.oneFile(`one changed file, ${fixture.name}`, image, 0.02))];
  lines.push(...(await bench.tarOfChanged(`${changed} changed files of ${fixture.name}`, image, changed)));

  const began = performance.now();
  const tree = await generateTree(driver, entries);
  const generated = `${entries.toLocaleString('en')} entries`;
  console.error(`made ${generated}: ${seconds((performance.now() - began) / 1000)}`);
  lines.push(...(await bench.oneFile(`one changed file, ${generated}`, tree, 0.05)));
  lines.push(...(await bench.renamed(`renamed directory of ${generated}`, tree, 0.05)));

  const day = new Date().toISOString().slice(0, 10);
  const text = [
    `${day}, ${describeMachine()}; fresh ext4 with a journal; medians of ${samples}, of ${samples * SHORT_FACTOR} where a call takes less than ${seconds(SHORT_SECONDS)}. Load average ${before.toFixed(1)} before, ${loadAverage().toFixed(1)} after.`,
    '',
    ...table(lines),
    '',
  ].join('\n');
  console.log(text);
  if (options.write) writeSection('differ', text);
}

class Bench {
  readonly #driver: StorageDriver;
  readonly #walking: StorageDriver;
  readonly #place: string;
  readonly #samples: number;
  #layers = 0;

  constructor(driver: StorageDriver, walking: StorageDriver, place: string, samples: number) {
    this.#driver = driver;
    this.#walking = walking;
    this.#place = place;
    this.#samples = samples;
  }

  /** `changes` of a layer with one changed file, in each mode; the plain one has a target, the others are held to it. */
  async oneFile(title: string, parent: LayerId, target: number): Promise<Line[]> {
    const cases: Case[] = [];
    for (const [name, mode] of MODES) {
      // By a changed mode alone metacopy leaves the data below.
      const change = mode.metacopy === 'on' ? (file: string) => chmodSync(file, 0o600) : append;
      const layer = await this.#layer(parent, mode, (tree) => change(middleFile(tree)));
      cases.push({ what: `${title}${name}: changes`, layer });
    }
    const [plain, ...others] = (await this.#changes(cases)) as [Line, ...Line[]];
    const limit = { target: medianOf(plain.samples) * MODE_FACTOR, means: `${MODE_FACTOR} × without` };
    return [{ ...plain, target }, ...others.map((line) => ({ ...line, ...limit }))];
  }

  /** The tar of a layer with many changed files, and GNU tar's of the upper directory. */
  async tarOfChanged(title: string, parent: LayerId, count: number): Promise<Line[]> {
    const layer = await this.#layer(parent, MODES[0]?.[1] ?? {}, (tree) => modify(tree, count));
    const upper = toText((await this.#driver.metadata(layer.id)).upper);
    const [ours, theirs] = await this.#tars(`${title}: tar`, layer, 'tar -c of the upper directory', upper);
    const changes = await this.#changes([{ what: `${title}: changes`, layer }]);
    return [
      { ...ours, target: medianOf(theirs.samples) * TAR_FACTOR, means: `${TAR_FACTOR} × tar -c` },
      theirs,
      ...changes,
    ];
  }

  /** A directory that was renamed with all in it: listed as one rename, and as a tar. */
  async renamed(title: string, parent: LayerId, target: number): Promise<Line[]> {
    const mode: LayerMode = { redirect: 'on', metacopy: 'off' };
    const layer = await this.#layer(parent, mode, (tree) => renameSync(join(tree, TREE), join(tree, 'moved')));
    const [changes] = (await this.#changes([
      { what: `${title}: changes --renames`, layer, how: { renames: 'collapse' } },
    ])) as [Line];
    await using mounted = await this.#driver.mount(layer.id, { mode, readonly: true });
    const [ours, theirs] = await this.#tars(
      `${title}: tar`,
      layer,
      'tar -c of the mounted layer',
      toText(mounted.path),
    );
    return [{ ...changes, target }, ours, theirs];
  }

  async #layer(parent: LayerId, mode: LayerMode, change: (tree: string) => void): Promise<Layer> {
    const layer = await writtenLayer(this.#driver, `work${++this.#layers}`, parent, mode, change);
    const because = await this.#driver.explain(layer.id, parent, { mode });
    if (!because.startsWith('upper')) throw new Error(`Cannot measure reading the upper directory: ${because}`);
    return layer;
  }

  /** All cases in turns, so that what the machine does meanwhile is done to all of them. */
  async #changes(cases: readonly Case[]): Promise<Line[]> {
    await this.#sync();
    const begun: { one: Case; first: number; count: number; samples: number[] }[] = [];
    for (const one of cases) {
      const { took, count } = await list(this.#driver, one);
      begun.push({ one, first: took, count, samples: [] });
    }
    const isShort = begun.every(({ first }) => first < SHORT_SECONDS);
    for (let i = 0; i < this.#samples * (isShort ? SHORT_FACTOR : 1); i++) {
      for (const { one, samples } of begun) samples.push((await list(this.#driver, one)).took);
    }
    const lines: Line[] = [];
    for (const { one, first, count, samples } of begun) {
      const walk = await list(this.#walking, one);
      if (walk.count !== count)
        throw new Error(`${one.what}: ${count} changes by the upper, ${walk.count} by the walk`);
      const walks: number[] = [];
      for (let i = 0; i < (walk.took > LONG_SECONDS ? 1 : this.#samples); i++) {
        walks.push((await list(this.#walking, one)).took);
      }
      lines.push(told({ what: `${one.what} (${count})`, samples, first, walks }));
    }
    return lines;
  }

  /** Ours and GNU tar's of `directory`, in turns, into files on the same filesystem. */
  async #tars(what: string, layer: Layer, name: string, directory: string): Promise<[Line, Line]> {
    const file = join(this.#place, 'out.tar');
    const timed = async (pack: () => Promise<unknown>): Promise<number> => {
      rmSync(file, { force: true });
      await this.#sync();
      const start = performance.now();
      await pack();
      return (performance.now() - start) / 1000;
    };
    const ours = (driver: StorageDriver): Promise<number> => timed(() => packInto(driver, layer, file));
    const theirs = (): Promise<number> => timed(() => command('tar', ['-C', directory, '-cf', file, '.']));
    const [first, firstOfTheirs] = [await ours(this.#driver), await theirs()];
    const count = first > LONG_SECONDS ? 1 : this.#samples * TARS_FACTOR;
    const [mine, others, walks]: [number[], number[], number[]] = [[], [], []];
    for (let i = 0; i < count; i++) {
      mine.push(await ours(this.#driver));
      others.push(await theirs());
    }
    for (let i = 0; i < Math.min(count, this.#samples); i++) walks.push(await ours(this.#walking));
    rmSync(file);
    return [
      told({ what, samples: mine, first, walks }),
      told({ what: `*${name}*`, samples: others, first: firstOfTheirs, walks: [] }),
    ];
  }

  async #sync(): Promise<void> {
    await command('sync', ['-f', this.#place]);
  }
}

async function list(driver: StorageDriver, { layer, how }: Case): Promise<{ took: number; count: number }> {
  const { id, parent, mode } = layer;
  let count = 0;
  const start = performance.now();
  for await (const _ of driver.changes(id, parent, { mode, ...how })) count++;
  return { took: (performance.now() - start) / 1000, count };
}

async function packInto(driver: StorageDriver, { id, parent, mode }: Layer, file: string): Promise<void> {
  const fd = openSync(file, 'w');
  try {
    for await (const chunk of driver.diff(id, parent, { mode, lend: true })) {
      for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
    }
  } finally {
    closeSync(fd);
  }
}

function append(file: string): void {
  appendFileSync(file, 'changed\n');
}

/** Tells it while the bench runs. */
function told(line: Line): Line {
  console.error(`${line.what}: ${line.samples.map(seconds).join(' ')}, walk ${line.walks.map(seconds).join(' ')}`);
  return line;
}

function table(lines: readonly Line[]): string[] {
  const rows = lines.map(({ what, samples, first, target, means, walks }) => {
    const median = medianOf(samples);
    const met = target === undefined ? '' : median <= target ? 'yes' : '**no**';
    const limit = target === undefined ? '' : `${seconds(target)}${means === undefined ? '' : ` (${means})`}`;
    const walk = walks.length === 0 ? '' : seconds(medianOf(walks));
    return `| ${[what, seconds(median), seconds(Math.min(...samples)), seconds(first), limit, met, walk].join(' | ')} |`;
  });
  return ['|  | median | least | first | at most | met | the walk |', '|---|--:|--:|--:|--:|---|--:|', ...rows];
}

if (options.help) console.log(USAGE);
else await runInside(import.meta.filename, options.scratch, main);
