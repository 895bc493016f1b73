import { rm } from 'node:fs/promises';
import { toBytes } from '../base/bytes.ts';
import { isStorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';
import type { RemoveOptions } from '../driver/driver.ts';
import { everyMakingOf, inRoot, type StoreContext } from './context.ts';
import type { LayerRow, Making } from './rows.ts';

/** When trees are deleted. Default: before it resolves. */
export interface DiscardOptions extends RemoveOptions {
  /** Milliseconds for deleting them now: what is left then is aside, for the sweeper. */
  readonly withinMs?: number;
}

/** Who gave up, or was told of a failure, waits no longer than a second. */
const UNDO: DiscardOptions = { withinMs: 300 };

/**
 * Removes announced things from disk and forgets them, all that can be. A layer that is in use stays announced with all
 * that it lies on; any other failure is thrown after the rest is done. What stays is `context.left`, for gc. `later`:
 * trees are only set aside, which takes no time, and the sweeper deletes them.
 */
export async function discard(
  context: StoreContext,
  makings: readonly Making[],
  options: DiscardOptions = {},
): Promise<void> {
  if (makings.length + context.unended.length > 0) await withRoom(context, () => remove(context, makings, options));
}

/**
 * A removal with room for it: on a disk that is nearly full it is given the reserve, which is taken again at its end.
 */
export async function withRoom<T>({ database }: Pick<StoreContext, 'database'>, removal: () => Promise<T>): Promise<T> {
  // What it fails for, the removal itself meets, and tells.
  const given = await database.room('to remove').then(
    () => true,
    () => false,
  );
  try {
    return await removal();
  } finally {
    if (given) await database.room('removed').catch(() => undefined); // else at the end of this handle
  }
}

async function remove(context: StoreContext, makings: readonly Making[], options: DiscardOptions): Promise<void> {
  const { database, driver, log, left, unended, sweeper } = context;
  const { withinMs } = options;
  const later = options.later === true || withinMs !== undefined;
  for (const making of makings) left.set(making.name, making);
  const gone: Making[] = [];
  const failures: unknown[] = [];
  const staying = new Set<string>();
  for (const { id, parent } of await childrenFirst(context, makings)) {
    try {
      if (!staying.has(id)) {
        await driver.remove(id, { later });
        gone.push({ kind: 'layer', name: id });
        continue;
      }
    } catch (error) {
      if (isStorageError(error, 'busy')) log.warn(`Layer "${id}" stays for now: ${error.message}`);
      else failures.push(error);
    }
    if (parent !== undefined) staying.add(parent);
  }
  for (const making of makings) {
    if (making.kind !== 'file') continue;
    try {
      await rm(toBytes(inRoot(context, making.name)), { force: true });
      gone.push(making);
    } catch (error) {
      failures.push(error);
    }
  }
  if (later && gone.some(({ kind }) => kind === 'layer')) {
    if (withinMs === undefined) sweeper.kick();
    else await sweeper.begin(withinMs).catch((error: unknown) => failures.push(error));
  }
  for (const { name } of gone) left.delete(name);
  unended.push(...gone);
  if (unended.length > 0) {
    // On a full disk this may fail: the rows of what is gone harm nobody, and go next time or with the session.
    const ending = unended.splice(0);
    await database.end(ending).catch((error: unknown) => {
      unended.push(...ending);
      if (!isStorageError(error, 'resource-exhausted')) throw error;
    });
  }
  if (failures.length > 0) throw failures[0];
}

/** Removes layers whose rows are gone, with their files; see `discard`. */
export async function discardLayers(
  context: StoreContext,
  ids: readonly LayerId[],
  options: DiscardOptions = {},
): Promise<void> {
  await discard(context, ids.flatMap(everyMakingOf), options);
}

/** As many rows at once as a full disk's reserve has room for. */
const AT_ONCE = 100;

/** Removes those layers (children first) that no name reaches now, with their rows; answers them. */
export async function removeUnreached(context: StoreContext, unreached: readonly LayerRow[]): Promise<LayerRow[]> {
  const all: LayerRow[] = [];
  // Asked at least once, also of none: who removes is known from then on.
  for (let i = 0; i === 0 || i < unreached.length; i += AT_ONCE) {
    const ids = unreached.slice(i, i + AT_ONCE).map((layer) => layer.driverId);
    const removed = await context.database.removeLayers(ids);
    all.push(...removed);
    await discardLayers(
      context,
      removed.map((layer) => layer.driverId),
      { later: true },
    );
  }
  return all;
}

/** As `discardLayers`, for what is not to fail for it, nor to wait for long. */
export async function discardOrWarn(
  context: StoreContext,
  ids: readonly LayerId[],
  options: DiscardOptions = UNDO,
): Promise<void> {
  try {
    await discardLayers(context, ids, options);
  } catch (error) {
    context.log.warn(`Left-overs stay for now, gc removes them: ${error instanceof Error ? error.message : error}`);
  }
}

interface Doomed {
  readonly id: LayerId;
  readonly parent: LayerId | undefined;
}

/** The layers among `makings`, each before the one it lies on: what is announced has no order. */
async function childrenFirst({ driver }: StoreContext, makings: readonly Making[]): Promise<Doomed[]> {
  const layers = new Map<LayerId, Doomed>();
  for (const { kind, name } of makings) {
    const id = name as LayerId;
    // Half made or half removed, it lies on nothing that anybody could see through it.
    if (kind === 'layer') layers.set(id, { id, parent: await driver.parent(id).catch(() => undefined) });
  }
  const seen = new Set<Doomed>();
  const parentsFirst: Doomed[] = [];
  const take = (layer: Doomed): void => {
    if (seen.has(layer)) return;
    seen.add(layer);
    const below = layer.parent === undefined ? undefined : layers.get(layer.parent);
    if (below !== undefined) take(below);
    parentsFirst.push(layer);
  };
  for (const layer of layers.values()) take(layer);
  return parentsFirst.reverse();
}
