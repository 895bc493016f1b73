import type { Fixture } from './fixtures.ts';

/** What is measured, in the order in which a session does it. Each has a title in `report.ts`. */
export type JobName =
  | 'start'
  | 'load'
  | 'round'
  | 'rounds'
  | 'commit'
  | 'commits'
  | 'changes'
  | 'commit-mixed'
  | 'diff'
  | 'save'
  | 'rmi';

/** One piece of work of one engine: `before` is not timed. */
export interface Task {
  before?(): Promise<void>;
  /** A number that it gives is taken as its seconds. */
  // biome-ignore lint/suspicious/noConfusingVoidType: a task that is timed from outside gives nothing.
  run(): Promise<number | void>;
  /** What is different about it, for the foot of the table. */
  readonly note?: string;
}

export interface Place {
  /** On a fresh filesystem; whatever the engine writes goes below it. */
  readonly directory: string;
  readonly fixture: Fixture;
}

/** An engine at work in one place, with its daemons. What it cannot do has no task. */
export interface Session extends AsyncDisposable {
  readonly tasks: Readonly<Partial<Record<Exclude<JobName, 'start'>, Task>>>;
}

/** Somebody who does the work: us, an engine that a user could take instead, or a plain tool as a floor. */
export interface Engine {
  readonly name: string;
  readonly kind: 'ours' | 'engine' | 'tool';
  /** A distribution's, where today's may be measured too. */
  readonly aged?: boolean;
  /** Command that prints its version. */
  readonly version: readonly [string, ...string[]];
  open(place: Place): Promise<Session>;
}

/** An engine that is not here, and why. */
export interface Missing {
  readonly name: string;
  readonly because: string;
}

/** What several tasks need done before, the first time only. */
export function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => {
    done ??= work();
    return done;
  };
}
