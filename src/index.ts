import { platform } from 'node:os';
import { resolve } from 'node:path';
import { StorageError } from './base/errors.ts';
import type { Diagnosis } from './graph/doctor.ts';
import type { OpenDriverOptions } from './graph/open-driver.ts';
import type { StorageDriver } from './graph/storage-driver.ts';
import type { Store, StoreOptions } from './store/types.ts';

export { type ByteString, fromBytes, fromText, quote, toBytes, toText, toTextExact } from './base/bytes.ts';
export { asDigest, type Digest } from './base/digest.ts';
export { type ErrorCode, type ErrorFacts, isStorageError, StorageError } from './base/errors.ts';
export type { Log } from './base/log.ts';
export type { Abortable, ByteStream, Change, DriverName, Finding, LayerId } from './base/values.ts';
export type { Mounted } from './driver/driver.ts';
export type * from './store/types.ts';

/**
 * Opens a store, made on first use. Loading this module starts nothing; everything that needs Linux is loaded here.
 * @example await using store = await openStore({ root: '/var/lib/app' });
 */
export async function openStore(options: StoreOptions): Promise<Store> {
  requireLinux('open a store');
  const given = { ...options, root: resolve(options.root) }; // the caller may change directory from here on
  const { openStore: open } = await import('./store/open.ts');
  return open(given);
}

export type { Diagnosis } from './graph/doctor.ts';
export type { OpenDriverOptions } from './graph/open-driver.ts';
export type { StorageDriver } from './graph/storage-driver.ts';

/** What works on this machine under `root`, driver by driver, found by trying; each with its reason and remedy. */
export async function doctor(root: string): Promise<readonly Diagnosis[]> {
  requireLinux('examine this machine');
  const given = resolve(root);
  const { doctor: examine } = await import('./graph/doctor.ts');
  return examine(given);
}

/** One driver without a store: directories, mounts and layer tars by id, and nothing remembered beside them. */
export async function openDriver(options: OpenDriverOptions): Promise<StorageDriver & { readonly because: string }> {
  requireLinux('open a driver');
  const given = { ...options, root: resolve(options.root) };
  const { openStorageDriver } = await import('./graph/open-driver.ts');
  return openStorageDriver(given);
}

function requireLinux(action: string): void {
  if (platform() === 'linux') return;
  throw new StorageError('unsupported', `Cannot ${action} on ${platform()}: layerstore mounts layers on Linux only`);
}
