import { awake } from '../base/awake.ts';
import { nowMs } from '../base/clock.ts';
import { isStorageError } from '../base/errors.ts';
import type { Job, Pool, RunOptions } from '../base/pool.ts';
import { abortRing, type RingMemory, RingReader, ringMemory } from '../base/ring.ts';
import type { Lending, Noting, Watched } from './apply.ts';
import type { CompressOptions, Crew } from './crew.ts';
import { watch } from './fill.ts';
import type { Compressing, Out, PackedBlob } from './jobs/out.ts';
import type { StepRings } from './jobs/steps.ts';
import type { Threads } from './threads.ts';

/** Who works with the job. */
export interface Company {
  readonly crew?: Crew;
  /** A job that feeds it, and the rings between them. */
  readonly beside?: { readonly job: Job; readonly rings: readonly RingMemory[] } | undefined;
  /** Called with the job's answer once all of it was read. */
  readonly onAnswer?: ((answer: unknown) => void) | undefined;
}

/**
 * The bytes that a job writes into a ring, as a stream. Nothing starts before the first read; a reader that stops early
 * ends the job; the job's own error, not the ring's, is what a reader sees.
 */
export async function* jobStream(
  pool: Pool,
  job: (ring: RingMemory, compress?: Compressing) => Job,
  { crew, lend, beside, onAnswer, onProgress, ...options }: RunOptions & Lending & Company = {},
): AsyncGenerator<Uint8Array, void, undefined> {
  const ring = ringMemory();
  const giveUp = (): void => {
    abortRing(ring);
    beside?.rings.forEach(abortRing);
    crew?.giveUp();
  };
  const stop = new AbortController();
  const signal = options.signal === undefined ? stop.signal : AbortSignal.any([options.signal, stop.signal]);
  // The first gets the thread that is ready first.
  const jobs = [...(beside === undefined ? [] : [beside.job]), job(ring, crew?.compress), ...(crew?.helpers ?? [])];
  const ofJob =
    onProgress && ((bytesDone: readonly number[]) => onProgress(bytesDone.slice(beside === undefined ? 0 : 1)));
  const running = pool.runTogether(jobs, { ...options, onProgress: ofJob, signal, giveUp, paced: true });
  running.catch(giveUp); // also where it never began: nobody else would end the reading; the error is seen below
  let whole = false;
  try {
    yield* new RingReader(ring).stream(lend);
    whole = true;
    const answers = await awake(running);
    onAnswer?.(answers[beside === undefined ? 0 : 1]);
  } catch (error) {
    if (isStorageError(error, 'canceled')) await awake(running);
    throw error;
  } finally {
    if (!whole) {
      stop.abort();
      await awake(running).catch(() => {}); // the first error is already on its way
    }
  }
}

/** Runs a job that writes a tar into an open file, perhaps compressed: then it answers what the tar became. */
export async function writeFile(
  threads: Threads,
  { fd, offset }: { readonly fd: number; readonly offset: number },
  job: (to: Out) => Job,
  options: Watched & CompressOptions,
): Promise<PackedBlob | undefined> {
  using crew = threads.crew(options);
  const jobs = [job({ kind: 'file', fd, offset, compress: crew.compress }), ...crew.helpers];
  const [written] = await threads.jobs.runTogether(jobs, { ...watch(options), giveUp: () => crew.giveUp() });
  return written as PackedBlob | undefined;
}

/** Of a stream that `pack` writes. */
export function noting({ onNote }: Noting): Pick<Company, 'onAnswer'> {
  if (onNote === undefined) return {};
  return {
    onAnswer(skipped) {
      for (const note of skipped as readonly string[]) onNote(note);
    },
  };
}

/** For the jobs `steps` and `pack` beside each other. */
export function stepRings(): StepRings {
  const ring = (): RingMemory => ringMemory({ slots: 16, slotBytes: 16 * 1024 });
  return { steps: ring(), links: ring() };
}

/** At most so often somebody is told of bytes. */
export const TOLD_MS = 100;

/** As `chunks`, with `onBytes` told. */
export async function* watched<T>(
  chunks: AsyncGenerator<Uint8Array, T, undefined>,
  { onBytes }: Watched,
): AsyncGenerator<Uint8Array, T, undefined> {
  if (onBytes === undefined) return yield* chunks;
  let bytes = 0;
  let since = nowMs();
  try {
    for (;;) {
      const { done, value } = await chunks.next();
      if (done === true) {
        onBytes(bytes);
        return value;
      }
      yield value;
      bytes += value.length;
      if (nowMs() - since < TOLD_MS) continue;
      onBytes(bytes);
      since = nowMs();
    }
  } finally {
    await chunks.return(undefined as T);
  }
}
