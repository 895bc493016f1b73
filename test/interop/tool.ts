import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { type Log, openStore, type Store, type StoreOptions, toText } from '../../src/index.ts';
import { dumpTree } from '../kit/tree-dump.ts';

const execute = promisify(execFile);

/** Runs a program and gives what it printed; a failure rejects with what it said. */
export async function tool(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<string> {
  const options = { env: { ...process.env, LC_ALL: 'C.UTF-8', ...env }, maxBuffer: 1 << 26, timeout: 120_000 };
  const { stdout } = await execute(program, args, options);
  return stdout;
}

/** skopeo, which asks nobody whether an image may be trusted. */
export function skopeo(...args: readonly string[]): Promise<string> {
  return tool('skopeo', ['--insecure-policy', ...args]);
}

/** A docker client that speaks to one daemon, and has the existing directory `config` for its own things. */
export function dockerOn(
  client: string,
  socket: string,
  config: string,
): (...args: readonly string[]) => Promise<string> {
  return (...args) => tool(client, args, { DOCKER_HOST: `unix://${socket}`, DOCKER_CONFIG: config });
}

/** A store that fails the test when it warns. */
export function storeAt(root: string, driver: NonNullable<StoreOptions['driver']>): Promise<Store> {
  const log: Log = {
    debug() {},
    info() {},
    warn(message) {
      throw new Error(`Warned: ${message}`);
    },
  };
  return openStore({ root, driver, log });
}

/** The dump of an image's tree, as the store shows it. */
export async function viewOf(
  store: Store,
  reference: string,
  directories: 'exact' | 'loose' = 'exact',
): Promise<string[]> {
  await using mounted = await store.layers.view(reference);
  return dumpTree(toText(mounted.path), directories);
}
