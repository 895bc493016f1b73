// What `meet` (met.ts) starts instead of the entry module of a job thread: the same one, but the chosen step of the
// chosen job does not go on.
import { parentPort, workerData } from 'node:worker_threads';
import type { Meeting } from './met.ts';

const { entry, plan, state } = workerData as Meeting;
const words = new Int32Array(state);
const load = Atomics.load;
let steps = -1;
const SLOW_MS = 20;

/** One step of a job: a look at whether it is given up, or a file it opens. */
function step(): void {
  if (steps < 0 || steps++ < plan.step) return;
  const first = Atomics.compareExchange(words, 0, 0, 1) === 0;
  if (first) Atomics.notify(words, 0);
  if (plan.how === 'slow' && load(words, 0) === 1) wait(SLOW_MS);
  if (!first) return;
  switch (plan.how) {
    case 'exit':
      process.exit(7);
      break;
    case 'memory':
      for (const all: unknown[] = []; ; ) all.push(new Array(100_000).fill({ length: all.length }));
    case 'error':
      setImmediate(() => {
        throw new Error('thrown by nobody who is asked');
      });
      break;
    case 'slow':
      break;
    default:
      wait(plan.how);
  }
}

function wait(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

const port = parentPort as NonNullable<typeof parentPort>;
const on = port.on.bind(port) as (event: string, listener: (message: unknown) => void) => typeof port;
(port as { on: typeof on }).on = (event, listener) =>
  on(event, (message) => {
    if ((message as { name?: unknown }).name === plan.job) steps = 0;
    step();
    listener(message);
    steps = -1;
  });
Atomics.load = ((...given: Parameters<typeof load>) => {
  step();
  return load(...given);
}) as typeof load;
const { libc } = await import('../../src/linux/libc.ts');
const { openat } = libc;
(libc as Record<string, typeof openat>)['openat'] = (...given) => {
  step();
  return openat(...given);
};
await import(entry);
