import type { TestContext } from 'node:test';
import { type DriverName, openStore, type Store, type StoreOptions } from '../../src/index.ts';
import { filesystem } from './filesystems.ts';
import { need } from './require.ts';

export const DRIVERS: readonly DriverName[] = ['overlay2', 'vfs'];

/** Runs `task` with a new store on a tmpfs of its own; unmounted and gone afterwards. A visible skip without the rights. */
export async function withStore(
  t: TestContext,
  driver: DriverName,
  task: (store: Store, path: string) => Promise<void>,
  options: Omit<StoreOptions, 'root' | 'driver'> = {},
): Promise<void> {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 2048);
  await using store = await openStore({ ...options, root: `${disk.path}/store`, driver });
  await task(store, disk.path);
}

/** One store of each driver, on one tmpfs. */
export interface Stores extends AsyncDisposable {
  /** The tmpfs. */
  readonly path: string;
  readonly each: readonly Store[];
}

export async function openStores(): Promise<Stores> {
  const disk = await filesystem('tmpfs', 3072);
  const each: Store[] = [];
  const dispose = async (): Promise<void> => {
    for (const store of each) await store[Symbol.asyncDispose]();
    await disk[Symbol.asyncDispose]();
  };
  try {
    for (const driver of DRIVERS) each.push(await openStore({ root: `${disk.path}/${driver}`, driver, threads: 2 }));
  } catch (error) {
    await dispose();
    throw error;
  }
  return { path: disk.path, each, [Symbol.asyncDispose]: dispose };
}
