import { parentPort, Worker } from 'node:worker_threads';
import { type ErrorRecord, isStorageError, record, revive, StorageError } from './errors.ts';

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
}

interface Thread {
  readonly worker: Worker;
  settle: ((result: Answer) => void) | undefined;
}

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
  readonly #size: number;
  readonly #idle: Thread[] = [];
  readonly #all = new Set<Thread>();
  readonly #waiting: { readonly count: number; readonly go: (threads: Thread[]) => void }[] = [];
  #taken = 0;
  #closed = false;

  constructor(entry: URL, size: number) {
    this.#entry = entry;
    this.#size = size;
  }

  get size(): number {
    return this.#size;
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
    options.signal?.throwIfAborted();
    const threads = await this.#acquire(jobs.length);
    const controls = jobs.map(() => new SharedArrayBuffer(CONTROL_BYTES));
    let gaveUp = false;
    const giveUp = (): void => {
      if (gaveUp) return;
      gaveUp = true;
      for (const control of controls) Atomics.store(new Int32Array(control), 0, 1);
      options.giveUp?.();
    };
    options.signal?.addEventListener('abort', giveUp, { once: true });
    if (options.signal?.aborted) giveUp();
    const tell = (): void => options.onProgress?.(controls.map((control) => new Float64Array(control)[1] ?? 0));
    const timer = options.onProgress === undefined ? undefined : setInterval(tell, PROGRESS_MS);
    timer?.unref();
    const failures: StorageError[] = [];
    const answers = await Promise.all(
      jobs.map(async (job, i) => {
        const thread = threads[i] as Thread;
        const result = await this.#do(thread, { ...job, control: controls[i] as SharedArrayBuffer });
        if ('answer' in result) return result.answer;
        failures.push(revive(result.error));
        giveUp();
        return undefined;
      }),
    );
    clearInterval(timer);
    options.signal?.removeEventListener('abort', giveUp);
    this.#release(threads);
    options.signal?.throwIfAborted();
    const failure = failures.find((f) => !isStorageError(f, 'canceled')) ?? failures[0];
    if (failure !== undefined) throw failure;
    tell();
    return answers;
  }

  #acquire(count: number): Promise<Thread[]> {
    if (this.#closed) {
      throw new StorageError('failed-precondition', 'Cannot start a job: the store or driver is closed');
    }
    if (count > this.#size) throw new RangeError(`${count} jobs need each other, the pool has ${this.#size} threads`);
    if (this.#waiting.length === 0 && this.#taken + count <= this.#size) return Promise.resolve(this.#take(count));
    return new Promise((go) => this.#waiting.push({ count, go }));
  }

  #take(count: number): Thread[] {
    this.#taken += count;
    return Array.from({ length: count }, () => {
      const thread = this.#idle.pop() ?? this.#start();
      thread.worker.ref();
      return thread;
    });
  }

  #release(threads: readonly Thread[]): void {
    this.#taken -= threads.length;
    for (const thread of threads) {
      thread.worker.unref();
      if (this.#all.has(thread)) this.#idle.push(thread);
    }
    for (let next = this.#waiting[0]; next !== undefined && this.#taken + next.count <= this.#size; ) {
      this.#waiting.shift();
      next.go(this.#take(next.count));
      next = this.#waiting[0];
    }
  }

  #start(): Thread {
    const worker = new Worker(this.#entry, { env: {}, execArgv: [], stdin: false, name: 'layerstore job' });
    const thread: Thread = { worker, settle: undefined };
    this.#all.add(thread);
    worker.on('message', (result: Answer) => thread.settle?.(result));
    const lost = (why: string, cause?: unknown): void => {
      this.#all.delete(thread);
      const at = this.#idle.indexOf(thread);
      if (at >= 0) this.#idle.splice(at, 1);
      const error = new StorageError('internal', `Cannot finish a job: its thread ended (${why})`, { cause });
      thread.settle?.({ error: record(error) });
    };
    worker.on('error', (error: Error) => lost(error.message, error));
    worker.on('exit', (code) => lost(`exit ${code}`));
    return thread;
  }

  async #do(thread: Thread, request: Request): Promise<Answer> {
    const { promise, resolve } = Promise.withResolvers<Answer>();
    thread.settle = resolve;
    try {
      thread.worker.postMessage(request);
      return await promise;
    } finally {
      thread.settle = undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await Promise.all([...this.#all].map((thread) => thread.worker.terminate()));
  }
}

/** The thread's side: does jobs of the table, one after another, until the pool ends it. */
export function serve(table: JobTable): void {
  const port = parentPort;
  if (port === null) throw new TypeError('serve() is for the entry module of a job thread');
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
      result = { error: record(error) };
    }
    port.postMessage(result);
  });
}
