import { appendFileSync, mkdirSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { filesystem } from '../test/kit/filesystems.ts';
import { command, shell } from './command.ts';
import { runInside } from './inside.ts';
import { checkHole, entryIn, HOLED, makeHole, ofBytes, ofEntries, ofHole, type Pieces, writeArchive } from './large-archives.ts';
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

const GB: Unit = { name: 'GB', of: 1e9, size: (size) => `${+(size / 1e9).toPrecision(3)} GB` };
const ENTRIES: Unit = { name: '1,000 entries', of: 1000, size: (size) => size.toLocaleString('en') };
const GIB: Unit = { name: 'GiB', of: 2 ** 30, size: (size) => `${+(size / 2 ** 30).toPrecision(3)} GiB` };

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

  async load(): Promise<void> {
    await this.time('load', undefined, () => this.call('load', '-i', this.archive));
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
