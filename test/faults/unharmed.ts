import assert from 'node:assert/strict';
import type { Store } from '../../src/index.ts';
import { rootDump } from '../kit/root-dump.ts';
import { mountsBelow } from './small-disk.ts';

/** What a failed deed must leave as it was: what is on disk, what is mounted, what the store says. */
export async function stateOf(store: Store): Promise<unknown> {
  await store.upkeep.sweep({ wait: true });
  return {
    disk: rootDump(store.root),
    mounts: mountsBelow(store.root),
    images: (await store.images.list()).map(({ id, names }) => [id, names]),
    layers: (await store.layers.stored()).map(({ chainId, usedBy }) => [chainId, usedBy]),
    writable: (await store.layers.list()).map(({ id, name }) => [id, name]),
    faults: await store.upkeep.check(),
  };
}

/** `deed` rejects as `judge` says, and everything is as it was before it; gc finds nothing. */
export async function leavesNothing(
  store: Store,
  deed: () => Promise<unknown>,
  judge: (error: unknown) => boolean,
  what = '',
): Promise<void> {
  const before = await stateOf(store);
  await assert.rejects(deed, judge, what);
  assert.deepEqual(await stateOf(store), before, what);
  assert.deepEqual(await store.upkeep.gc({ dryRun: true }), { layers: [], files: [], freedBytes: 0 }, what);
}
