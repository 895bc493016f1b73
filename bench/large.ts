import { appendFileSync, mkdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { filesystem } from '../test/kit/filesystems.ts';
import { command, shell } from './command.ts';
import { runInside } from './inside.ts';
import {
  checkHole,
  entryIn,
  HOLED,
  makeHole,
  ofBytes,
  ofEntries,
  ofHole,
  type Pieces,
  writeArchive,
} from './large-archives.ts';
import { describeMachine, loadAverage, measure, type Sample } from './measure.ts';
import { seconds, writeSection } from './report.ts';

// Measures that time is linear and memory bounded on sizes that no test has. README.md says more.

const LAUNCHER = fileURLToPath(new URL('../bin/layerstore', import.meta.url));
const PARTS = ['bytes', 'entries', 'hole', 'zeros'] as const;
type Part = (typeof PARTS)[number];
const USAGE = `./try bench/large.ts [--part ${PARTS.join(',')}] [--scale F] [--scratch DIR] [--write]`;

/** 256 MB, and 32 MB for each of two job threads. */
const PEAK_BYTES_MAX = 320e6;
/** What a unit may cost more than with the smallest size. */
const LINEAR_FACTOR = 1.25;
/** What all of it may cost more than with the smallest size, where the size is not to matter. */
const FLAT_FACTOR = 1.5;
/** Differences of so many seconds are anybody's noise. */
const NOISE_SECONDS = 0.1;
/** Sparse: the largest layer, its inodes and a journal. */
const FILESYSTEM_MIB = 40 * 1024;
const IMAGE = 'large:1';
const CHANGED_FILES = 10;

const { values: options } = parseArgs({
  options: {
    part: { type: 'string', default: PARTS.join(',') },
    scale: { type: 'string', default: '1' },
    scratch: { type: 'string' },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

/** How the time of a piece of work is to grow with the size: with it, or not at all. */
type Growth = 'linear' | 'flat';

interface Line {
  readonly job: string;
  readonly size: string;
  /** Of what the size is counted in. */
  readonly units: number;
  readonly growth?: Growth;
  readonly sample: Sample;
  readonly note?: string;
}

interface Unit {
  /** One of these… */
  readonly name: string;
  /** …is so much of what a size is given in. */
  readonly of: number;
  /** A size for people. */
  readonly size: (size: number) => string;
}

const GB: Unit = { name: '1 GB', of: 1e9, size: (size) => `${+(size / 1e9).toPrecision(3)} GB` };
const ENTRIES: Unit = { name: '1,000 entries', of: 1000, size: (size) => size.toLocaleString('en') };
const GIB: Unit = { name: '1 GiB', of: 2 ** 30, size: (size) => `${+(size / 2 ** 30).toPrecision(4)} GiB` };

interface PartOf {
  readonly unit: Unit;
  readonly sizes: readonly number[];
  /** What `mkfs` is told of inodes. */
  readonly inodes: number;
  readonly measure: (place: Place, size: number) => Promise<void>;
}

const KINDS: Readonly<Record<Part, PartOf>> = {
  bytes: { unit: GB, sizes: [5e9, 10e9, 20e9], inodes: 1 << 20, measure: bytes },
  entries: { unit: ENTRIES, sizes: [250_000, 500_000, 1_000_000], inodes: 1 << 14, measure: entries },
  hole: { unit: GIB, sizes: [2 ** 38, 2 ** 39, 2 ** 40], inodes: 1 << 20, measure: hole },
  zeros: { unit: GIB, sizes: [2 ** 32, 2 ** 33, 2 ** 34], inodes: 1 << 20, measure: zeros },
};

/** One size of one part: a store on a filesystem of its own, and what was measured there. */
class Place {
  readonly path: string;
  readonly scratch: string;
  readonly archive: string;
  readonly lines: Line[] = [];
  readonly #unit: Unit;
  readonly #size: number;

  constructor(path: string, scratch: string, unit: Unit, size: number) {
    this.path = path;
    this.scratch = scratch;
    this.archive = join(scratch, 'archive.tar');
    this.#unit = unit;
    this.#size = size;
  }

  async call(...args: string[]): Promise<string> {
    return (await command(LAUNCHER, [...args, '--quiet'], { env: this.#env })).trim();
  }

  /** What it prints goes nowhere. */
  async pour(...args: string[]): Promise<void> {
    await shell('exec "$@" >/dev/null', [LAUNCHER, ...args, '--quiet'], { env: this.#env });
  }

  /** Measures it; without a growth it is there for comparison only. */
  async time(job: string, growth: Growth | undefined, work: () => Promise<unknown>): Promise<void> {
    await this.sync();
    const sample = await measure(async () => void (await work()));
    const line: Line = {
      job,
      size: this.#unit.size(this.#size),
      units: this.#size / this.#unit.of,
      sample,
      ...(growth === undefined ? {} : { growth }),
    };
    this.lines.push(line);
    console.error(
      `${job}, ${line.size}: ${seconds(sample.wallSeconds)}, CPU ${seconds(sample.cpuSeconds)}, ${megabytes(sample.peakBytes)}, others ${percent(sample.othersShare)}`,
    );
  }

  note(text: string): void {
    const line = this.lines.pop();
    if (line !== undefined) this.lines.push({ ...line, note: text });
    console.error(`  ${text}`);
  }

  async sync(): Promise<void> {
    await command('sync', ['-f', this.path]);
  }

  /** Makes the archive, and lets the kernel forget it: small ones are not to be read from memory where large ones are not. */
  async write(pieces: Pieces): Promise<void> {
    writeArchive(this.archive, IMAGE, pieces);
    await command('sync', ['-f', this.archive]);
    await forget(this.archive);
  }

  get #env(): Record<string, string> {
    return { LAYERSTORE_ROOT: join(this.path, 'store') };
  }
}

/** Reads of these files come from the disk again. */
async function forget(...files: string[]): Promise<void> {
  for (const file of files) await command('dd', [`if=${file}`, 'iflag=nocache', 'count=0', 'status=none']);
}

async function bytes(place: Place, size: number): Promise<void> {
  await place.write(ofBytes(size));
  const [image, copy] = [join(dirname(place.path), 'image'), join(place.path, 'copy')];
  await place.time('*a copy of the archive, synced*', undefined, () =>
    command('dd', [`if=${place.archive}`, `of=${copy}`, 'bs=1M', 'conv=fdatasync', 'status=none']),
  );
  rmSync(copy);
  await command('fstrim', [place.path]);
  await forget(place.archive, image);
  await place.time('load', 'linear', () => place.call('load', '-i', place.archive));
  rmSync(place.archive);
  await place.sync();
  const files = (await shell('find "$1" -type f -size +1M', [place.path])).trim().split('\n');
  await forget(...files, image);
  await place.time('*cat of the files*', undefined, () => shell('exec cat "$@" >/dev/null', files));
  await forget(...files, image);
  await place.time('save', 'linear', () => place.pour('save', IMAGE));
  await remove(place);
}

async function entries(place: Place, size: number): Promise<void> {
  await place.write(ofEntries(size));
  await place.time('*tar -x of the layer, synced*', undefined, async () => {
    mkdirSync(join(place.path, 'tree'));
    await shell('tar -xOf "$1" layer.tar | tar -x -C "$2"/tree; sync -f "$2"', [place.archive, place.path]);
  });
  await command('rm', ['-r', join(place.path, 'tree')]);
  await place.time('load', 'linear', () => place.call('load', '-i', place.archive));
  await place.time('save', 'linear', () => place.pour('save', IMAGE));
  await place.time('check --deep', 'linear', () => place.call('check', '--deep'));
  await place.call('create', IMAGE, '--name', 'work');
  const tree = await place.call('mount', 'work');
  for (let i = 0; i < CHANGED_FILES; i++) {
    appendFileSync(join(tree, entryIn(Math.floor((i * size) / 1000 / CHANGED_FILES))), 'changed\n');
  }
  await place.call('umount', 'work');
  await place.time(`changes of ${CHANGED_FILES} files`, 'flat', () => place.pour('changes', 'work'));
  await place.time(`diff of ${CHANGED_FILES} files`, 'flat', () => place.pour('diff', 'work'));
  await place.call('rm', 'work');
  await remove(place);
}

async function hole(place: Place, size: number): Promise<void> {
  await place.write(await ofHole(size, place.scratch));
  await place.time('load', 'flat', () => place.call('load', '-i', place.archive));
  await place.time('save', 'flat', () => place.pour('save', IMAGE));
  let tree = '';
  await place.time('mount', 'flat', async () => {
    tree = await place.call('mount', '--read-only', IMAGE);
  });
  place.note(`the file has its size and its data, and takes ${megabytes(checkHole(tree, size))}`);
  await place.call('umount', IMAGE);
  await remove(place, 'flat');
}

async function zeros(place: Place, size: number): Promise<void> {
  await place.call('create', '--name', 'work');
  makeHole(await place.call('mount', 'work'), size);
  await place.call('umount', 'work');
  await place.sync();
  // The kernel keeps zeros of holes that were read as it keeps data; what finding memory for them takes is seen here alone.
  const file = (await shell('find "$1"/store -name "$2"', [place.path, HOLED])).trim();
  await forget(file);
  await place.time('*cat of the file, first*', undefined, () => shell('exec cat "$1" >/dev/null', [file]));
  await place.time('*cat of the file, again*', undefined, () => shell('exec cat "$1" >/dev/null', [file]));
  await place.time('diff', 'linear', () => place.pour('diff', 'work'));
  await place.time('commit', 'linear', () => place.call('commit', 'work', IMAGE));
  const tree = await place.call('mount', '--read-only', IMAGE);
  place.note(`the committed file takes ${megabytes(checkHole(tree, size))}`);
  await place.call('umount', IMAGE);
  await place.call('rm', 'work');
  await remove(place);
}

async function remove(place: Place, growth: Growth = 'linear'): Promise<void> {
  // What was removed before is not to be deleted beside it.
  await place.call('gc', '--removed');
  await place.time('rmi, gc --wait', growth, async () => {
    await place.call('rmi', IMAGE);
    await place.call('gc', '--wait');
  });
}

async function main(scratch: string): Promise<void> {
  const scale = Number(options.scale);
  for (const name of options.part.split(',')) {
    const part = PARTS.find((known) => known === name);
    if (part === undefined) throw new Error(`--part takes ${PARTS.join(', ')}`);
    const { unit, sizes, inodes, measure } = KINDS[part];
    const before = loadAverage();
    const lines: Line[] = [];
    const failed: string[] = [];
    for (const size of sizes.map((full) => Math.ceil(full * scale))) {
      await using disk = await filesystem('ext4', FILESYSTEM_MIB, ['-i', `${inodes}`]);
      const own = join(scratch, 'own');
      mkdirSync(own);
      const place = new Place(disk.path, own, unit, size);
      try {
        await measure(place, size);
      } catch (error) {
        failed.push(`- failed: ${part}, ${unit.size(size)}: ${(error as Error).message}`);
        console.error(failed.at(-1));
      }
      lines.push(...place.lines);
      rmSync(own, { recursive: true });
    }
    const text = [...head(lines, scale, before), '', ...table(lines, unit), '', ...notes(lines), ...failed, ''].join(
      '\n',
    );
    console.log(`#### ${part}\n\n${text}`);
    if (options.write) writeSection(`large ${part}`, text);
  }
}

function head(lines: readonly Line[], scale: number, before: number): string[] {
  const others = Math.max(0, ...lines.map(({ sample }) => sample.othersShare));
  const day = new Date().toISOString().slice(0, 10);
  return [
    `${scale === 1 ? '' : `All sizes × ${scale}. `}${day}, ${describeMachine()}; fresh ext4 with a journal on a loop image; one sample each. Load average ${before.toFixed(1)} before, ${loadAverage().toFixed(1)} after; other work and the kernel took at most ${percent(others)} of the processors' time.`,
  ];
}

function table(lines: readonly Line[], unit: Unit): string[] {
  const rows = [...Map.groupBy(lines, ({ job }) => job).values()].flatMap((group) =>
    group.map((line) => {
      const { sample, units, growth } = line;
      const cells = [
        line.job,
        line.size,
        seconds(sample.wallSeconds),
        growth === 'flat' ? '' : seconds(sample.wallSeconds / units),
        growthOf(line, group[0] as Line),
        seconds(sample.cpuSeconds),
        megabytes(sample.peakBytes),
        growth === undefined ? '' : isLinear(line, group[0] as Line) && isBounded(line) ? 'yes' : '**no**',
      ];
      return `| ${cells.join(' | ')} |`;
    }),
  );
  const titles = ['', 'size', 'wall', `for ${unit.name}`, 'growth', 'CPU', 'peak memory', 'met'];
  return [`| ${titles.join(' | ')} |`, '|---|--:|--:|--:|--:|--:|--:|---|', ...rows];
}

/** In parts of the smallest size's: what a unit costs, or all of it where the size is not to matter. */
function growthOf({ growth, sample, units }: Line, first: Line): string {
  const all = sample.wallSeconds / first.sample.wallSeconds;
  return growth === 'flat' ? `× ${all.toFixed(2)}` : `× ${((all * first.units) / units).toFixed(2)} a unit`;
}

function isLinear({ growth, sample, units }: Line, first: Line): boolean {
  const whole = first.sample.wallSeconds * (growth === 'flat' ? FLAT_FACTOR : (LINEAR_FACTOR * units) / first.units);
  return sample.wallSeconds <= whole + NOISE_SECONDS;
}

function isBounded({ sample }: Line): boolean {
  return (sample.peakBytes ?? 0) <= PEAK_BYTES_MAX;
}

function notes(lines: readonly Line[]): string[] {
  return lines.flatMap(({ job, size, note }) => (note === undefined ? [] : [`- ${job}, ${size}: ${note}`]));
}

function megabytes(bytes: number | undefined): string {
  return bytes === undefined ? '' : `${(bytes / 1e6).toFixed(0)} MB`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(0)} %`;
}

if (options.help) console.log(USAGE);
else await runInside(import.meta.filename, options.scratch, main);
