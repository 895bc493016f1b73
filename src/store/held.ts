import type { LayerId } from '../base/values.ts';
import type { StoreContext } from './context.ts';

/** Nobody takes a hold of this name. */
const NOBODY = 'nobody';

/**
 * Whether anybody has the layer mounted. A mount that only dead processes held is undone on the way: letting go of a
 * hold that is not there is coming by, and the next comer clears what the dead left (driver-behaviour D3b).
 */
export async function isHeld({ driver }: StoreContext, id: LayerId): Promise<boolean> {
  if (!(await driver.isMounted(id))) return false;
  await driver.release(id, NOBODY);
  return driver.isMounted(id);
}
