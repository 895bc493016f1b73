import { platform } from 'node:os';
import { StorageError } from './base/errors.ts';
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
  if (platform() !== 'linux') {
    throw new StorageError(
      'unsupported',
      `Cannot open a store on ${platform()}: layerstore mounts layers on Linux only`,
    );
  }
  const { openStore: open } = await import('./store/open.ts');
  return open(options);
}
