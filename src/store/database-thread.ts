import { parentPort } from 'node:worker_threads';
import { record } from '../base/errors.ts';
import { answering } from './database-requests.ts';
import type { Requests } from './rows.ts';

// The entry point of the database's thread: started by `database.ts`, imported by nobody.

/** A request, and its answer in the same order. */
export interface Question {
  readonly id: number;
  readonly ask: keyof Requests;
  readonly values: readonly unknown[];
}
export type Answer =
  | { readonly id: number; readonly value: unknown }
  | { readonly id: number; readonly error: import('../base/errors.ts').ErrorRecord };

const port = parentPort;
if (port !== null) {
  const requests = answering();
  port.on('message', ({ id, ask, values }: Question) => {
    let answer: Answer;
    try {
      // The pair of name and values was typed where it was sent (`Thread.ask`).
      answer = { id, value: (requests[ask] as (...values: readonly unknown[]) => unknown)(...values) };
    } catch (error) {
      answer = { id, error: record(error) };
    }
    port.postMessage(answer);
    if (ask === 'close') port.close();
  });
}
