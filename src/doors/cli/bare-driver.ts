import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fromText, quote } from '../../base/bytes.ts';
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
  if (!holdsStore(root)) {
    // What only reads makes no home: the root may be a mistyped one.
    const names = HOMES.filter((name) => driver === undefined || driver === name);
    if (!writes && names.length > 0 && !names.some((name) => existsSync(join(root, name)))) {
      throw new StorageError(
        'not-found',
        `Cannot open a driver in ${quote(fromText(root))}: there is no home of ${names.join(' or ')}`,
        { remedy: '"layerstore driver create" makes one' },
      );
    }
    return openDriver({ root, options, log, ...(driver === undefined ? {} : { driver }) });
  }
  if (writes) {
    throw new StorageError(
      'failed-precondition',
      `Cannot change layers of the driver in ${quote(fromText(root))}: a store owns them; use its commands, or another --root`,
    );
  }
  // Opening the store makes what a reboot took away, and refuses another driver than its own.
  const store = await openStoreOf(context, { create: false });
  const { name } = store.driver;
  const { run } = layoutOf(store.root);
  await store[Symbol.asyncDispose]();
  return openDriver({ root, driver: name, options, log, run });
}
