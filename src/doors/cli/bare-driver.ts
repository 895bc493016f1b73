import { existsSync } from 'node:fs';
import { type ByteString, joinBytes, quote, toBytes } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';
import type { StorageDriver } from '../../graph/storage-driver.ts';
import { layoutOf } from '../../store/layout.ts';
import { type Context, openStoreOf } from './context.ts';

const HOMES: readonly string[] = ['overlay2', 'vfs', 'fuse-overlayfs', 'aufs'];

/**
 * The driver whose home is `ROOT/NAME`. Where the root holds a store, holds and locks are the store's, and a verb that
 * `writes` layers is `failed-precondition`: the store owns them.
 */
export async function openDriverOf(context: Context, { writes }: { readonly writes: boolean }): Promise<StorageDriver> {
  const { openDriver } = await import('../../index.ts');
  const { holdsStore } = await import('../../graph/open-driver.ts'); // of Linux, as help is not
  const { root, driver, driverOptions: options, log } = context;
  const path = toBytes(root);
  if (!holdsStore(path)) {
    // What only reads makes no home: the root may be a mistyped one.
    const names = HOMES.filter((name) => driver === undefined || driver === name);
    if (
      !writes &&
      names.length > 0 &&
      !names.some((name) => existsSync(toBytes(joinBytes(root, name as ByteString))))
    ) {
      throw new StorageError(
        'not-found',
        `Cannot open a driver in ${quote(root)}: there is no home of ${names.join(' or ')}`,
        { remedy: '"layerstore driver create" makes one' },
      );
    }
    return openDriver({ root: path, options, log, ...(driver === undefined ? {} : { driver }) });
  }
  if (writes) {
    throw new StorageError(
      'failed-precondition',
      `Cannot change layers of the driver in ${quote(root)}: a store owns them; use its commands, or another --root`,
    );
  }
  // Opening the store makes what a reboot took away, and refuses another driver than its own.
  const store = await openStoreOf(context, { create: false });
  const { name } = store.driver;
  const { run } = layoutOf(store.rootPath);
  await store[Symbol.asyncDispose]();
  return openDriver({ root: path, driver: name, options, log, run: toBytes(run) });
}
