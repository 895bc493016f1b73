import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Engine, JobName, Missing } from './engine.ts';
import { CHANGED_FILES, type Fixture } from './fixtures.ts';
import { loadAverage, type Sample } from './measure.ts';
import { medianOf, spreadOf } from './statistics.ts';

/** One sample of one job, or why there is none. */
export interface Measured {
  readonly engine: string;
  readonly image: string | undefined;
  readonly job: JobName;
  readonly sample?: Sample;
  /** What syncing the filesystem took right after it. */
  readonly syncSeconds?: number | undefined;
  readonly note?: string | undefined;
  readonly failed?: string;
}

/** All that one run of the bench found. */
export interface Run {
  readonly machine: string;
  readonly at: Date;
  readonly loadAverageBefore: number;
  readonly samples: number;
  readonly fixtures: readonly Fixture[];
  readonly engines: readonly Engine[];
  readonly missing: readonly Missing[];
  readonly measured: readonly Measured[];
}

/** Differences below this mean nothing on a machine that is used by others. */
const NOISE_SPREAD = 0.25;
const NOISE_SHARE = 0.25;
/** Less was seen only of a process that was just starting. */
const BYTES_SEEN_MIN = 1e6;

const TITLES: Readonly<Record<JobName, string>> = {
  load: 'load: an archive becomes an image, unpacked',
  round: 'round: create, mount, unmount and remove a writable layer, by commands',
  rounds: 'rounds: the same within one process or through an API, one round',
  commits: 'commits: as commit, within one process or through an API, one commit',
  commit: `commit: ${CHANGED_FILES} changed files become an image`,
  changes: 'changes: what a mixed change (see above) did is listed',
  'commit-mixed': 'commit-mixed: the mixed change becomes an image',
  diff: 'diff: a layer with 10 changed files becomes a tar',
  save: 'save: the image becomes an archive',
  rmi: 'rmi: the image is removed',
  start: 'start: the command prints its version',
};

/** The medians of one engine in one job on one image. */
export interface Row {
  readonly engine: Engine;
  readonly wallSeconds: number;
  readonly cpuSeconds: number;
  readonly peakBytes: number | undefined;
  readonly syncSeconds: number | undefined;
  readonly spread: number;
  readonly samples: number;
  /** Wall time in parts of the fastest engine that is not ours; of a tool too. */
  readonly ratio: number | undefined;
  readonly note: string | undefined;
}

/** What was done on one image by several engines. */
export interface Table {
  readonly title: string;
  readonly job: JobName;
  /** Fastest first. */
  readonly rows: readonly Row[];
}

/** The measured, job by job and image by image, in the order of the first samples. */
export function tablesOf(run: Run): Table[] {
  const groups = Map.groupBy(run.measured, ({ job, image }) => `${job} ${image ?? ''}`);
  const order = Object.keys(TITLES);
  const tables = [...groups.values()].map((group): Table => {
    const { job, image } = group[0] as Measured;
    const rows = run.engines.flatMap((engine) => rowOf(engine, group) ?? []);
    const best = Math.min(...rows.filter((row) => row.engine.kind === 'engine').map((row) => row.wallSeconds));
    const rated = rows.map((row) => (Number.isFinite(best) ? { ...row, ratio: row.wallSeconds / best } : row));
    return {
      title: image === undefined ? TITLES[job] : `${TITLES[job]}: ${image}`,
      job,
      rows: rated.toSorted((a, b) => a.wallSeconds - b.wallSeconds),
    };
  });
  return tables
    .filter((table) => table.rows.length > 0)
    .toSorted((a, b) => order.indexOf(a.job) - order.indexOf(b.job));
}

function rowOf(engine: Engine, group: readonly Measured[]): Row | undefined {
  const mine = group.filter((one) => one.engine === engine.name && one.sample !== undefined);
  const samples = mine.map((one) => one.sample as Sample);
  if (samples.length === 0) return undefined;
  const peaks = samples.flatMap((sample) => sample.peakBytes ?? []);
  const syncs = mine.flatMap((one) => one.syncSeconds ?? []);
  const walls = samples.map((sample) => sample.wallSeconds);
  return {
    engine,
    wallSeconds: medianOf(walls),
    // Of what goes on inside, the wall time is one round's, all else is the whole process's.
    cpuSeconds: isInside(group[0]?.job) ? 0 : medianOf(samples.map((sample) => sample.cpuSeconds)),
    peakBytes: !isInside(group[0]?.job) && Math.max(...peaks) >= BYTES_SEEN_MIN ? Math.max(...peaks) : undefined,
    syncSeconds: syncs.length > 0 ? medianOf(syncs) : undefined,
    spread: spreadOf(walls),
    samples: samples.length,
    ratio: undefined,
    note: mine[0]?.note,
  };
}

/** Markdown of the whole run: what was measured, where, how quiet it was there, a table for each job and image. */
export function report(run: Run): string {
  const day = run.at.toISOString().slice(0, 10);
  const lines = [`${day}, ${run.machine}; medians of ${run.samples} (the highest for memory).`, '', noise(run), ''];
  for (const table of tablesOf(run)) lines.push(...render(table), '');
  const failed = run.measured.filter((one) => one.failed !== undefined);
  for (const { engine, job, image, failed: why } of failed)
    lines.push(`- failed: ${engine}, ${job} of ${image}: ${why}`);
  for (const { name, because } of run.missing) lines.push(`- not measured: ${name}: ${because}`);
  return `${lines.join('\n').trimEnd()}\n`;
}

function render(table: Table): string[] {
  const withSync = table.rows.some((row) => row.syncSeconds !== undefined);
  const head = ['', 'wall', '× fastest engine', 'CPU', 'peak memory', ...(withSync ? ['sync after it'] : []), 'spread'];
  const rows = table.rows.map((row) => [
    styled(row.engine),
    seconds(row.wallSeconds),
    row.ratio === undefined ? '' : row.ratio.toFixed(2),
    row.cpuSeconds === 0 ? '' : seconds(row.cpuSeconds),
    row.peakBytes === undefined ? '' : `${(row.peakBytes / 1e6).toFixed(0)} MB`,
    ...(withSync ? [row.syncSeconds === undefined ? '' : seconds(row.syncSeconds)] : []),
    row.samples < 2 ? '' : `${(row.spread * 100).toFixed(0)} %${row.spread > NOISE_SPREAD ? ' noisy' : ''}`,
  ]);
  const noted = Map.groupBy(
    table.rows.filter((row) => row.note !== undefined),
    (row) => row.note,
  );
  const notes = [...noted].map(([note, rows]) => `${rows.map((row) => row.engine.name).join('; ')}: ${note}`);
  return [
    `#### ${table.title}`,
    '',
    `| ${head.join(' | ')} |`,
    `|---|${head
      .slice(1)
      .map(() => '--:|')
      .join('')}`,
    ...rows.map((row) => `| ${row.join(' | ')} |`),
    ...(notes.length > 0 ? ['', ...notes.map((note) => `- ${note}`)] : []),
  ];
}

/** Ours stands out, a tool is no engine; a bar in a name would end its cell. */
function styled({ kind, name }: Engine): string {
  const mark = { ours: '**', engine: '', tool: '*' }[kind];
  return `${mark}${name.replaceAll('|', '\\|')}${mark}`;
}

/** Seconds for people: two to three digits that mean something. */
export function seconds(value: number): string {
  if (value < 0.0995) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  return `${value.toFixed(value < 9.95 ? 2 : 1)} s`;
}

/** Whether the figures can be trusted: how busy the machine was with something else. */
function noise(run: Run): string {
  // Shorter than this, the kernel's ticks say nothing.
  const samples = run.measured.flatMap(({ sample }) =>
    sample !== undefined && sample.wallSeconds > 0.3 ? sample : [],
  );
  const rows = tablesOf(run).flatMap((table) => table.rows);
  const wide = rows.filter((row) => row.samples > 1 && row.spread > NOISE_SPREAD).length;
  const [others, steal] = [samples.map((one) => one.othersShare), samples.map((one) => one.stealShare)];
  const percent = (share: number): string => `${(share * 100).toFixed(0)} %`;
  const found = [
    `load average ${run.loadAverageBefore.toFixed(1)} before, ${loadAverage().toFixed(1)} after`,
    ...(samples.length === 0
      ? []
      : [
          `other work took ${percent(medianOf(others))} of the processors' time (median; at most ${percent(Math.max(0, ...others))})`,
          `stolen ${percent(medianOf(steal))} (at most ${percent(Math.max(0, ...steal))})`,
        ]),
    run.samples > 1
      ? `${wide} of ${rows.length} spreads over ${percent(NOISE_SPREAD)}`
      : 'one sample each: no spread known',
  ];
  const noisy = medianOf(others) > NOISE_SHARE || Math.max(0, ...steal) > NOISE_SHARE || wide > rows.length / 4;
  return `${noisy ? '**The machine was noisy: only large differences mean something.** ' : 'The machine was quiet. '}${found.join('; ')}.`;
}

/** A part of README.md, between its marks. */
export function writeSection(name: string, text: string): void {
  const readme = join(import.meta.dirname, 'README.md');
  const [begin, end] = [`<!-- ${name} -->`, `<!-- end of ${name} -->`];
  const [before, rest] = readFileSync(readme, 'utf8').split(begin) as [string, string];
  writeFileSync(readme, `${before}${begin}\n\n${text}\n${end}${rest.split(end)[1]}`);
}

function isInside(job: JobName | undefined): boolean {
  return job === 'rounds' || job === 'commits';
}
