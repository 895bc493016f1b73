import { type ByteString, toBytes } from '../../base/bytes.ts';
import { isStorageError, StorageError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { DriverName } from '../../base/values.ts';
import type { Store, StoreOptions } from '../../store/types.ts';
import type { Output } from './output.ts';

/** What a command may use of the process, global options applied. */
export interface Context {
  readonly root: ByteString;
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

export interface OpenStoreOptions {
  /**
   * true where the command writes what needs nothing that is there already. Other commands make no store: the root may
   * be a mistyped one.
   */
  readonly create: boolean;
  /** true where the command reads little and ends: a thread for the database would take longer to start than it saves. */
  readonly brief?: boolean;
  readonly ahead?: NonNullable<StoreOptions['ahead']>;
  /** Trees of removed layers are left as they are: what cannot be deleted would start one process after another. */
  readonly leavesAside?: boolean;
}

/** The store at the root. */
export async function openStoreOf(
  context: Context,
  { create, brief = false, ahead = {}, leavesAside = false }: OpenStoreOptions,
): Promise<Store> {
  const { openStore } = await import('../../index.ts');
  const leftAside = async (): Promise<void> => {
    if (leavesAside) return;
    const { deleteElsewhere } = await import('./delete-elsewhere.ts');
    deleteElsewhere(context);
  };
  const { root, driver, driverOptions, log, signal } = context;
  const opening = openStore({
    root: toBytes(root),
    // The store knows its drivers and refuses other names.
    ...(driver === undefined ? {} : { driver: driver as DriverName }),
    driverOptions,
    log,
    signal,
    patience: { signal },
    create,
    brief,
    ahead,
    leftAside,
  });
  return opening.catch((error: unknown) => {
    if (create || !isStorageError(error, 'not-found')) throw error;
    const { code, message } = error;
    throw new StorageError(code, message, { remedy: '"layerstore load" makes one', cause: error });
  });
}
