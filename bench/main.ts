import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
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
import { type Fixture, fixturesFrom } from './fixtures.ts';
import { describeMachine, loadAverage, measure } from './measure.ts';
import { plot } from './plot.ts';
import { type Measured, type Run, report } from './report.ts';

// Measures layerstore side by side with the engines that are here: README.md says how. Runs itself again in mount and
// process namespaces of its own, so that whatever happens no daemon, mount or loop device is left.

const USAGE = `npm run bench -- [--quick] [--images DIR] [--peers DIR] [--only load,round,rounds,commit,save,start]
  [--image NAME,…] [--engines WORD,…] [--samples N] [--scratch DIR] [--write]`;
const INSIDE = 'LAYERSTORE_BENCH_INSIDE';
const JOBS: readonly JobName[] = ['load', 'round', 'rounds', 'commit', 'save', 'start'];
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
else if (process.getuid?.() !== 0) throw new Error('Cannot measure: only root may mount filesystems and start engines');
else if (process.env[INSIDE] === undefined) process.exitCode = await runInside();
else await main(process.env[INSIDE]);

/** The same command in namespaces that end with it, with a directory that is gone afterwards. */
async function runInside(): Promise<number> {
  // Short: podman takes a run directory of 50 characters, the kernel a socket's path of 107.
  const scratch = mkdtempSync(join(resolve(options.scratch ?? tmpdir()), 'lsb-'));
  const own = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
  const child = spawn('unshare', [...own, process.execPath, import.meta.filename, ...process.argv.slice(2)], {
    stdio: 'inherit',
    env: { ...process.env, [INSIDE]: scratch, LAYERSTORE_TEST_DIR: scratch },
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill('SIGKILL'));
  const { promise, resolve: done, reject } = Promise.withResolvers<number>();
  child.once('exit', (code) => done(code ?? 130)).once('error', reject);
  try {
    return await promise;
  } finally {
    rmSync(scratch, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}

async function main(scratch: string): Promise<void> {
  // The parent shares our terminal's signals and ends us.
  for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => process.exit(130));
  const list = (text: string | undefined): string[] | undefined => text?.split(',');
  const jobs = (list(options.only) ?? JOBS).map((name) => {
    const job = JOBS.find((known) => known === name);
    if (job === undefined) throw new Error(`--only takes ${JOBS.join(', ')}`);
    return job;
  });
  const samples = Number(options.samples ?? (options.quick ? 1 : 3));
  const images = options.images ?? (process.env['LAYERSTORE_IMAGES'] || undefined);
  const peers = peersIn(options.peers === undefined ? undefined : resolve(options.peers));
  const { engines, missing } = enginesFrom(
    await Promise.all([[layerstore], dockers(peers), containerds(peers), podmans(peers), umocis(peers), tools(peers)]),
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
  if (options.write) write(text, plot(run));
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

/** The table into README.md, between its marks, and the plot beside it. */
function write(text: string, svg: string): void {
  const readme = join(import.meta.dirname, 'README.md');
  const [begin, end] = ['<!-- results -->', '<!-- end of results -->'];
  const [before, rest] = readFileSync(readme, 'utf8').split(begin) as [string, string];
  writeFileSync(readme, `${before}${begin}\n\n${text}\n${end}${rest.split(end)[1]}`);
  writeFileSync(join(import.meta.dirname, 'results.svg'), svg);
}
