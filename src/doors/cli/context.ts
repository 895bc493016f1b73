import type { Log } from '../../base/log.ts';
import type { DriverName } from '../../base/values.ts';
import type { Store } from '../../store/types.ts';
import type { Output } from './output.ts';

/** What a command may use of the process, global options applied. */
export interface Context {
  readonly root: string;
  readonly driver: string | undefined;
  readonly driverOptions: readonly string[];
  readonly json: boolean;
  /** No progress. */
  readonly quiet: boolean;
  readonly log: Log;
  /** Aborts when the user interrupts, or nobody reads the output any more. */
  readonly signal: AbortSignal;
  readonly out: Output;
  /** Opened when it is asked for. */
  stdin(): NodeJS.ReadStream;
  readonly stderr: NodeJS.WriteStream;
  readonly env: NodeJS.ProcessEnv;
}

/** One line to people, on standard error. */
export function say(context: Context, line: string): void {
  context.stderr.write(`${line}\n`);
}

/**
 * The store at the root. `create: false` where the command names something that must be there already: a store that
 * does not exist has it not, and none is made. Other commands make one, with nothing in it.
 */
export async function openStoreOf(context: Context, { create }: { readonly create: boolean }): Promise<Store> {
  const { openStore } = await import('../../index.ts');
  const { root, driver, driverOptions, log, signal } = context;
  return openStore({
    root,
    // The store knows its drivers and refuses other names.
    ...(driver === undefined ? {} : { driver: driver as DriverName }),
    driverOptions,
    log,
    signal,
    create,
  });
}
