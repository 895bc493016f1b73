import { expecting } from '../../base/kinds.ts';
import type { StoreContext } from '../context.ts';
import { UPKEEP } from '../signatures.ts';
import type { Upkeep } from '../types.ts';
import { checkStore } from './check.ts';
import { collectGarbage } from './gc.ts';

/** The upkeep of an open store. */
export function upkeepOf(context: StoreContext): Upkeep {
  const upkeep: Upkeep = {
    gc: (options) => collectGarbage(context, options),
    sweep: ({ signal, wait = false } = {}) => {
      const others = wait ? 'wait' : 'leave';
      return context.sweeper.finish({ others, ...(signal === undefined ? {} : { signal }) });
    },
    check: (options) => checkStore(context, options),
    counts: () => context.database.counts(),
  };
  return expecting(upkeep, 'upkeep', UPKEEP);
}
