import { rm } from 'node:fs/promises';
import { toBytes } from '../base/bytes.ts';
import { isStorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';
import { everyMakingOf, inRoot, type StoreContext } from './context.ts';
import type { Making } from './rows.ts';

/** Removes announced things from disk and forgets them. What is in use stays announced, for a later sweep. */
export async function discard(context: StoreContext, makings: readonly Making[]): Promise<void> {
  for (const making of makings) {
    try {
      if (making.kind === 'layer') await context.driver.remove(making.name as LayerId);
      else await rm(toBytes(inRoot(context, making.name)), { force: true });
    } catch (error) {
      if (!isStorageError(error, 'busy')) throw error;
      context.log.warn(`${making.name} stays for now: ${error.message}`);
      continue;
    }
    await context.database.end([making]);
  }
}

/** Removes layers whose rows are gone, with their files. */
export async function discardLayers(context: StoreContext, ids: readonly LayerId[]): Promise<void> {
  for (const id of ids) await discard(context, everyMakingOf(id));
}
