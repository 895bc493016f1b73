import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { filesystem } from '../test/kit/filesystems.ts';
import { peersIn } from '../test/kit/peers.ts';
import { command } from './command.ts';
import type { Engine, JobName, Missing, Task } from './engine.ts';
import { containerds } from './engines/containerd.ts';
import { dockers } from './engines/docker.ts';
import { layerstore } from './engines/layerstore.ts';
import { podmans } from './engines/podman.ts';
import { tools } from './engines/tools.ts';
import { umocis } from './engines/umoci.ts';
import { unsynced } from './engines/unsynced.ts';
import { type Fixture, fixturesFrom } from './fixtures.ts';
import { runInside } from './inside.ts';
import { describeMachine, loadAverage, measure } from './measure.ts';
import { plot } from './plot.ts';
import { type Measured, type Run, report, writeSection } from './report.ts';

// Measures layerstore side by side with the engines that are here: README.md says how.

const JOBS: readonly JobName[] = [
  'load',
  'round',
  'rounds',
  'commit',
  'commits',
  'changes',
  'commit-mixed',
  'diff',
  'save',
  'rmi',
  'start',
];
const USAGE = `npm run bench -- [--quick] [--images DIR] [--peers DIR] [--only JOB,…] [--image NAME,…]
  [--engines WORD,…] [--samples N] [--scratch DIR] [--write]
JOB is one of ${JOBS.join(', ')}`;
/** On which everything is measured; on other images only `load`. */
const MAIN_IMAGES = ['node-app', 'generated'];
const START_SAMPLES = 10;
/** Sparse; the largest image unpacked, saved and packed fits several times. */
const FILESYSTEM_MIB = 10 * 1024;

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    images: { type: 'string' },
    peers: { type: 'string' },
    only: { type: 'string' },
    image: { type: 'string' },
    engines: { type: 'string' },
    samples: { type: 'string' },
    scratch: { type: 'string' },
    write: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

if (options.help) console.log(USAGE);
else await runInside(import.meta.filename, options.scratch, main);

async function main(scratch: string): Promise<void> {
  const list = (text: string | undefined): string[] | undefined => text?.split(',');
  const only: readonly string[] = list(options.only) ?? JOBS;
  if (!only.every((name) => JOBS.some((job) => job === name))) throw new Error(`--only takes ${JOBS.join(', ')}`);
  const jobs = JOBS.filter((job) => only.includes(job));
  const samples = Number(options.samples ?? (options.quick ? 1 : 3));
  const images = options.images ?? (process.env['LAYERSTORE_IMAGES'] || undefined);
  const peers = peersIn(options.peers === undefined ? undefined : resolve(options.peers));
  const { engines, missing } = enginesFrom(
    await Promise.all([
      [layerstore],
      dockers(peers),
      containerds(peers),
      podmans(peers),
      umocis(peers),
      tools(peers),
      unsynced(peers),
    ]),
    list(options.engines),
  );
  for (const { name, because } of missing) console.error(`skipped: ${name}: ${because}`);
  const all = await fixturesFrom(images === undefined ? undefined : resolve(images), list(options.image), scratch);
  const main = all.find(({ name }) => MAIN_IMAGES.includes(name)) ?? all[0];
  const fixtures = options.quick ? all.filter((one) => one === main) : all;

  const began = { loadAverage: loadAverage(), at: new Date() };
  const measured: Measured[] = [];
  for (let round = 0; round < samples; round++) {
    for (const fixture of fixtures) {
      const todo = jobs.filter((job) => job !== 'start' && (job === 'load' || fixture === main));
      // Everybody is once the first, so that no place in the row is anybody's.
      for (const engine of rotate(todo.length > 0 ? engines : [], round)) {
        measured.push(...(await session(engine, fixture, todo)));
      }
    }
  }
  if (jobs.includes('start')) measured.push(...(await starts(engines)));

  const run: Run = {
    machine: describeMachine(),
    at: began.at,
    loadAverageBefore: began.loadAverage,
    samples,
    fixtures,
    engines,
    missing,
    measured,
  };
  const text = report(run);
  console.log(text);
  if (!options.write) return;
  writeSection('results', text);
  writeFileSync(join(import.meta.dirname, 'results.svg'), plot(run));
}

function enginesFrom(
  found: readonly (readonly (Engine | Missing)[])[],
  words: readonly string[] | undefined,
): { engines: Engine[]; missing: Missing[] } {
  const all = found.flat();
  const wanted = all.filter(
    (one) => words === undefined || words.some((word) => one.name.includes(word)) || one.name === layerstore.name,
  );
  const here = wanted.filter((one) => 'open' in one);
  const engines = options.quick ? here.filter((one) => !isSuperseded(one, here)) : here;
  return { engines, missing: wanted.filter((one) => 'because' in one) };
}

/** A distribution's docker or containerd beside today's. */
function isSuperseded(engine: Engine, all: readonly Engine[]): boolean {
  const family = engine.name.split(' ')[0] as string;
  return engine.aged === true && all.some((one) => one.aged !== true && one.name.startsWith(family));
}

function rotate<T>(list: readonly T[], by: number): T[] {
  const at = list.length === 0 ? 0 : by % list.length;
  return [...list.slice(at), ...list.slice(0, at)];
}

/** All `jobs` of one engine on one image, on a filesystem made for it. What fails is told and costs nothing else. */
async function session(engine: Engine, fixture: Fixture, jobs: readonly JobName[]): Promise<Measured[]> {
  const done: Measured[] = [];
  const named = (job: JobName): Pick<Measured, 'engine' | 'image' | 'job'> => ({
    engine: engine.name,
    image: fixture.name,
    job,
  });
  let job: JobName = 'load';
  try {
    await using place = await filesystem('ext4', FILESYSTEM_MIB);
    await using opened = await engine.open({ directory: place.path, fixture });
    // Everything else stands on the loaded image.
    for (job of new Set<JobName>(['load', ...jobs])) {
      if (job === 'start') continue;
      const task: Task | undefined = opened.tasks[job];
      if (task === undefined) continue;
      await task.before?.();
      await command('sync', ['-f', place.path]);
      const sample = await measure(async () => (await task.run()) ?? undefined);
      const syncSeconds = job === 'load' ? await timed(() => command('sync', ['-f', place.path])) : undefined;
      const wall = sample.wallSeconds;
      console.error(
        `${engine.name}: ${job} of ${fixture.name}: ${wall < 0.1 ? `${(wall * 1000).toFixed(1)} ms` : `${wall.toFixed(2)} s`}`,
      );
      if (jobs.includes(job)) done.push({ ...named(job), sample, syncSeconds, note: task.note });
    }
  } catch (error) {
    const message = (error as Error).message;
    console.error(`${engine.name}: ${job} of ${fixture.name} failed: ${message}`);
    done.push({ ...named(job), failed: message.split('\n')[0] as string });
  }
  return done;
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

/** Programs that print their version, one after another, each several times. */
async function starts(engines: readonly Engine[]): Promise<Measured[]> {
  const programs = new Map<string, Engine>();
  for (const engine of engines)
    if (engine.kind !== 'tool') programs.set(engine.version[0], programs.get(engine.version[0]) ?? engine);
  const done: Measured[] = [];
  for (let i = 0; i < START_SAMPLES; i++) {
    for (const { name, version } of programs.values()) {
      const sample = await measure(async () => {
        // Without the pipes and promises of a task: the time of a process, not ours.
        const start = performance.now();
        spawnSync(version[0], version.slice(1), { stdio: 'ignore' });
        return (performance.now() - start) / 1000;
      });
      done.push({ engine: name, image: undefined, job: 'start', sample: { ...sample, peakBytes: undefined } });
    }
  }
  return done;
}
