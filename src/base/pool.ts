import { parentPort, type Worker, workerData } from 'node:worker_threads';
import { closeOpened, keepList, OPENED_BYTES, type ThreadData } from './descriptors.ts';
import { type ErrorRecord, fromSystem, isStorageError, record, revive, StorageError } from './errors.ts';
import { startWorker } from './worker.ts';
import { threadEnd } from './working-directory.ts';

// Long-lived threads that do blocking work. The pool knows no job: a thread's entry module calls `serve` with a table
// of functions. Threads start with an empty environment and no Node flags, so that coverage, profiles and preloads of
// the program never enter a thread that may be jailed in a layer.

/** One piece of work for one thread. */
export interface Job {
  readonly name: string;
  /** Structured-cloneable. */
  readonly request: unknown;
}

/** What a job function may ask of its surroundings, from inside its loops. */
export interface JobContext {
  /** Throws `canceled` once the job's caller gave up. Cheap: one atomic load. */
  check(): void;
  /** Says how many bytes are done; the caller looks at it now and then. */
  done(bytes: number): void;
}

export type JobTable = Readonly<Record<string, (request: never, context: JobContext) => unknown>>;

export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called once when one of the jobs failed or the caller gave up: aborts the rings that the others wait on. */
  readonly giveUp?: () => void;
  /** Called at most ten times a second with the bytes that each job has done, and once at the end. */
  readonly onProgress?: ((bytesDone: readonly number[]) => void) | undefined;
  /**
   * The jobs go at the pace of a caller who may be waiting for other jobs meanwhile: they wait for no free thread, one
   * is started beyond the pool's size, or the two would wait for each other. They do not hold the process either: who
   * waits for them does (`awake`), and who has stopped waiting need not say so.
   */
  readonly paced?: boolean;
}

interface Thread {
  readonly worker: Worker;
  /** Its modules are loaded, or it ended: only then may it be ended. */
  readonly started: Promise<void>;
  ready: boolean;
  settle: ((result: Answer) => void) | undefined;
}

interface Waiting {
  readonly count: number;
  readonly go: (threads: Thread[]) => void;
  readonly fail: (reason: unknown) => void;
}

/** What a thread says when it is ready. */
const READY = 'ready';
type Answer = { readonly answer: unknown } | { readonly error: ErrorRecord };
interface Request {
  readonly name: string;
  readonly request: unknown;
  readonly control: SharedArrayBuffer;
}

const CONTROL_BYTES = 16; // [0]: canceled; [8]: bytes done, as a double
const PROGRESS_MS = 100;

/** Threads of one entry module. An idle pool never holds the process. */
export class Pool implements AsyncDisposable {
  readonly #entry: URL;
  readonly #size: () => number;
  readonly #idle: Thread[] = [];
  readonly #all = new Set<Thread>();
  readonly #waiting: Waiting[] = [];
  #taken = 0;
  #closed = false;

  /** `size`: asked for when it matters. */
  constructor(entry: URL, size: number | (() => number)) {
    this.#entry = entry;
    this.#size = typeof size === 'number' ? () => size : size;
  }

  get size(): number {
    return this.#size();
  }

  /** Threads that are at work. */
  get taken(): number {
    return this.#taken;
  }

  /** Threads that are at work, those beyond the pool's size too. */
  get busy(): number {
    return this.#all.size - this.#idle.length;
  }

  /** Threads that are started and have nothing to do. */
  get idle(): number {
    return this.#idle.length;
  }

  /** Whether a job would begin at once in a thread that is started. */
  get free(): boolean {
    return this.#idle.length > 0 && this.#waiting.length === 0 && this.#fits(1);
  }

  /** Starts threads for jobs that are to come, `count` in all at most. */
  warm(count: number): void {
    for (let missing = Math.min(count, this.size) - this.#all.size; missing > 0; missing--) {
      const thread = this.#newThread();
      thread.worker.unref();
      this.#idle.push(thread);
    }
  }

  /** Does one job; answers what its function answers. */
  async run<T>(job: Job, options: RunOptions = {}): Promise<T> {
    const [answer] = await this.runTogether([job], options);
    return answer as T;
  }

  /**
   * Does the jobs at the same time, one thread each (they may wait for each other), and answers in their order. When
   * one fails the others are canceled, all are awaited, and the first true failure is thrown.
   */
  async runTogether(jobs: readonly Job[], options: RunOptions = {}): Promise<unknown[]> {
    const { signal, paced = false } = options;
    signal?.throwIfAborted();
    const threads = paced ? this.#start(jobs.length, paced) : await this.#acquire(jobs.length, signal);
    try {
      return await this.#runOn(threads, jobs, options);
    } finally {
      this.#release(threads, paced);
    }
  }

  async #runOn(threads: readonly Thread[], jobs: readonly Job[], options: RunOptions): Promise<unknown[]> {
    const { signal, onProgress } = options;
    const controls = jobs.map(() => new SharedArrayBuffer(CONTROL_BYTES));
    const failures: unknown[] = [];
    let gaveUp = false;
    const giveUp = (): void => {
      if (gaveUp) return;
      gaveUp = true;
      for (const control of controls) Atomics.store(new Int32Array(control), 0, 1);
      options.giveUp?.();
    };
    const tell = (): void => {
      try {
        onProgress?.(controls.map((control) => new Float64Array(control)[1] ?? 0));
      } catch (error) {
        // Out of a timer it would end the process; the caller is to see what he threw.
        failures.push(error);
        giveUp();
      }
    };
    signal?.addEventListener('abort', giveUp, { once: true });
    if (signal?.aborted) giveUp();
    const timer = onProgress === undefined ? undefined : setInterval(tell, PROGRESS_MS);
    timer?.unref();
    const answers = await Promise.all(
      jobs.map(async (job, i) => {
        const result = await this.#do(threads[i] as Thread, { ...job, control: controls[i] as SharedArrayBuffer });
        if ('answer' in result) return result.answer;
        failures.push(revive(result.error));
        giveUp();
        return undefined;
      }),
    );
    clearInterval(timer);
    signal?.removeEventListener('abort', giveUp);
    signal?.throwIfAborted();
    if (failures.length === 0) tell();
    if (failures.length > 0) throw failures.find((failure) => !isStorageError(failure, 'canceled')) ?? failures[0];
    return answers;
  }

  #acquire(count: number, signal: AbortSignal | undefined): Promise<Thread[]> {
    if (count > this.size) throw new RangeError(`${count} jobs need each other, the pool has ${this.size} threads`);
    if (this.#closed || (this.#waiting.length === 0 && this.#fits(count))) return Promise.resolve(this.#take(count));
    const { promise, resolve, reject } = Promise.withResolvers<Thread[]>();
    const waiting: Waiting = { count, go: resolve, fail: reject };
    this.#waiting.push(waiting);
    const onAbort = (): void => {
      const at = this.#waiting.indexOf(waiting);
      if (at < 0) return; // it has its threads: the job sees to the abort
      this.#waiting.splice(at, 1);
      reject(signal?.reason);
      this.#next(); // it may have been what kept smaller ones waiting
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    return promise.finally(() => signal?.removeEventListener('abort', onAbort));
  }

  #fits(count: number): boolean {
    return this.#taken + count <= this.size;
  }

  #take(count: number): Thread[] {
    const threads = this.#start(count, false);
    this.#taken += count;
    return threads;
  }

  #start(count: number, paced: boolean): Thread[] {
    if (this.#closed) throw closed();
    const started: Thread[] = [];
    try {
      while (started.length < count) started.push(this.#nextIdle() ?? this.#newThread());
    } catch (error) {
      for (const { worker } of started) worker.unref();
      this.#idle.push(...started);
      throw error;
    }
    for (const { worker } of started) {
      if (paced) worker.unref();
      else worker.ref();
    }
    return started;
  }

  /** The one that was used last, or that will be ready first. */
  #nextIdle(): Thread | undefined {
    const ready = this.#idle.findLastIndex((thread) => thread.ready);
    return this.#idle.splice(Math.max(0, ready), 1)[0];
  }

  #release(threads: readonly Thread[], paced: boolean): void {
    if (!paced) this.#taken -= threads.length;
    for (const thread of threads) {
      thread.worker.unref();
      if (!this.#all.has(thread)) continue;
      if (this.#idle.length < this.size) this.#idle.push(thread);
      else void end(thread);
    }
    this.#next();
  }

  #next(): void {
    for (let next = this.#waiting[0]; next !== undefined && this.#fits(next.count); next = this.#waiting[0]) {
      this.#waiting.shift();
      try {
        next.go(this.#take(next.count));
      } catch (error) {
        next.fail(error);
      }
    }
  }

  #newThread(): Thread {
    const opened = new SharedArrayBuffer(OPENED_BYTES);
    const data: ThreadData = { layerstoreOpened: opened };
    const settings = { env: {}, execArgv: [], stdin: false, name: 'layerstore job', workerData: data };
    const worker = startWorker(this.#entry, settings);
    const { promise: started, resolve: start } = Promise.withResolvers<void>();
    const thread: Thread = { worker, started, ready: false, settle: undefined };
    this.#all.add(thread);
    worker.on('message', (result: Answer | typeof READY) => {
      if (result === READY) {
        thread.ready = true;
        start();
      } else thread.settle?.(result);
    });
    let why: Error | undefined;
    worker.on('error', (error) => {
      why = error;
      this.#forget(thread);
    });
    // Only now does it do nothing any more.
    worker.on('exit', (code) => {
      start();
      this.#forget(thread);
      closeOpened(opened);
      const error = this.#closed ? closed() : threadEnd('finish a job', why ?? code);
      thread.settle?.({ error: record(error) });
    });
    return thread;
  }

  #forget(thread: Thread): void {
    this.#all.delete(thread);
    const at = this.#idle.indexOf(thread);
    if (at >= 0) this.#idle.splice(at, 1);
  }

  async #do(thread: Thread, request: Request): Promise<Answer> {
    const { promise, resolve } = Promise.withResolvers<Answer>();
    thread.settle = resolve;
    try {
      thread.worker.postMessage(request);
      return await promise;
    } catch (error) {
      return { error: record(error) }; // the request cannot be cloned
    } finally {
      thread.settle = undefined;
    }
  }

  /** Ends all threads; jobs that run or wait reject with `failed-precondition`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    for (const { fail } of this.#waiting.splice(0)) fail(closed());
    await Promise.all([...this.#all].map(end));
  }
}

/** A native module that is being loaded while its thread is ended takes the whole process down (napi_throw is fatal then). */
async function end({ worker, started }: Thread): Promise<void> {
  worker.ref();
  await started;
  await worker.terminate();
}

function closed(): StorageError {
  return new StorageError('failed-precondition', 'Cannot do a job: the store or driver is closed');
}

/** The thread's side: does jobs of the table, one after another, until the pool ends it. */
export function serve(table: JobTable): void {
  const port = parentPort;
  if (port === null) throw new TypeError('serve() is for the entry module of a job thread');
  keepList(workerData as ThreadData);
  port.on('message', ({ name, request, control }: Request) => {
    const canceled = new Int32Array(control);
    const done = new Float64Array(control);
    const context: JobContext = {
      check() {
        if (Atomics.load(canceled, 0) !== 0) throw new StorageError('canceled', `The job "${name}" was given up`);
      },
      done(bytes) {
        done[1] = bytes;
      },
    };
    let result: Answer;
    try {
      const job = table[name];
      if (job === undefined) throw new TypeError(`no job named ${name}`);
      context.check();
      result = { answer: job(request as never, context) };
    } catch (error) {
      result = { error: jobError(error) };
    }
    port.postMessage(result);
  });
  port.postMessage(READY);
}

/** What a job threw, to be told to who asked for it. */
export function jobError(error: unknown): ErrorRecord {
  const { syscall } = (error ?? {}) as NodeJS.ErrnoException; // most jobs use node:fs too
  return record(fromSystem(error, `Cannot ${syscall} in a job`));
}
