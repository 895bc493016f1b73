import { Worker, type WorkerOptions } from 'node:worker_threads';
import { StorageError } from './errors.ts';

/** A thread that runs `entry`. `resource-exhausted`: the kernel gives this process or user no other (pthread_create(3)). */
export function startWorker(entry: URL, options: WorkerOptions): Worker {
  try {
    return new Worker(entry, options);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code !== 'ERR_WORKER_INIT_FAILED') throw cause;
    const remedy = 'allow more processes or memory (ulimit -u and -v, pids.max of the control group)';
    const text = `Cannot start a thread: the kernel gives no more (${message}); ${remedy}`;
    throw new StorageError('resource-exhausted', text, { remedy, cause });
  }
}
