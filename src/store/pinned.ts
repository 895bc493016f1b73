import { isStorageError } from '../base/errors.ts';
import type { Abortable } from '../base/values.ts';
import { type StoreContext, undoing } from './context.ts';
import { removeUnreached } from './discard.ts';
import type { LayerRow } from './rows.ts';

/** Who only reads does not wait longer than that to be allowed to. */
const PIN_MS = 1000;

/**
 * Keeps the layers of images (bottom first) from removal until disposal, which removes those that nothing else reaches
 * any more. On a disk that is full, or while others hold the database for long, it is done without: a layer that
 * is removed then ends its reading with `not-found`.
 */
export async function pinned(
  context: StoreContext,
  chains: readonly (readonly LayerRow[])[],
  { signal }: Abortable,
): Promise<AsyncDisposable> {
  const { log } = context;
  const database = context.database.waiting({ ms: PIN_MS, ...(signal === undefined ? {} : { signal }) });
  // The top keeps all below it.
  const tops = chains.flatMap((layers) => layers.at(-1)?.chainId ?? []);
  let pin: string;
  try {
    ({ pin } = await database.pin(tops));
  } catch (error) {
    if (!isStorageError(error, 'resource-exhausted') && !isStorageError(error, 'busy')) throw error;
    return { async [Symbol.asyncDispose]() {} };
  }
  return {
    async [Symbol.asyncDispose]() {
      const undo = undoing(context);
      try {
        await undo.database.unpin(pin);
        // Whose image was removed meanwhile, nobody else removes.
        const mine = new Set(chains.flat().map(({ driverId }) => driverId));
        const unreached = (await undo.database.unreachable()).filter(({ driverId }) => mine.has(driverId));
        if (unreached.length > 0) await removeUnreached(undo, unreached);
      } catch (error) {
        if (isStorageError(error, 'failed-precondition')) return; // the store is closed, and what it pinned is free
        log.warn(`Layers stay in the store for now, gc removes them: ${String(error)}`);
      }
    },
  };
}
