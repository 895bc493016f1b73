import type { StoreContext } from '../context.ts';
import type { Upkeep } from '../types.ts';
import { checkStore } from './check.ts';
import { collectGarbage } from './gc.ts';

/** The upkeep of an open store. */
export function upkeepOf(context: StoreContext): Upkeep {
  return {
    gc: (options) => collectGarbage(context, options),
    check: (options) => checkStore(context, options),
    counts: () => context.database.counts(),
  };
}
