import { syncBuiltinESMExports } from 'node:module';
import threads from 'node:worker_threads';

// Job threads that really end, or really stay, in the middle of a job. The product is as it is: only what
// `new Worker(...)` starts is another module (met-thread.ts), which loads the true one.

/** What is met with, at this step of the first job of that name that comes so far. */
export interface Plan {
  readonly job: string;
  /** 0 is before the job begins. */
  readonly step: number;
  /**
   * The thread ends; uses up its memory; has an error that nobody catches, after the job; or waits so many ms. `slow`:
   * from there on every step takes 20 ms, in all jobs of that name.
   */
  readonly how: 'exit' | 'memory' | 'error' | 'slow' | number;
}

/** The worker's data. */
export interface Meeting {
  readonly entry: string;
  readonly plan: Plan;
  /** One word: 1 once it is met, 2 after disposal. */
  readonly state: SharedArrayBuffer;
}

export interface Met extends Disposable {
  readonly isMet: boolean;
  /** Resolves once a thread is at the step. */
  readonly there: Promise<void>;
}

const THREAD = new URL('met-thread.ts', import.meta.url);
const JOB_THREADS = /\/src\/graph\/jobs\/(thread|control)\.ts$/;

/** Job threads that are started before disposal do, until then, as `plan` says; one of them, once. */
export function meet(plan: Plan): Met {
  const { Worker } = threads;
  const state = new SharedArrayBuffer(4);
  const words = new Int32Array(state);
  class MetWorker extends Worker {
    constructor(entry: string | URL, options: threads.WorkerOptions = {}) {
      if (!JOB_THREADS.test(String(entry))) {
        super(entry, options);
        return;
      }
      const meeting: Meeting = { entry: String(entry), plan, state };
      super(THREAD, {
        ...options,
        workerData: { ...(options.workerData as object | undefined), ...meeting },
        ...(plan.how === 'memory' ? { resourceLimits: { maxOldGenerationSizeMb: 32 } } : {}),
      });
    }
  }
  const put = (worker: typeof Worker): void => {
    threads.Worker = worker;
    syncBuiltinESMExports();
  };
  put(MetWorker);
  const wait = Atomics.waitAsync(words, 0, 0);
  return {
    get isMet() {
      return Atomics.load(words, 0) > 0;
    },
    there: Promise.resolve(wait.value).then(() => {}),
    [Symbol.dispose]() {
      Atomics.store(words, 0, 2);
      put(Worker);
    },
  };
}
