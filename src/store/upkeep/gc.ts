import { readdir, rm, stat } from 'node:fs/promises';
import { toBytes } from '../../base/bytes.ts';
import { asDigest } from '../../base/digest.ts';
import type { LayerId } from '../../base/values.ts';
import { inRoot, keptOf, recordOf, type StoreContext } from '../context.ts';
import { discard, removeUnreached, withRoom } from '../discard.ts';
import { isHeld } from '../held.ts';
import type { LayerRow } from '../rows.ts';
import type { GcReport, Upkeep } from '../types.ts';

/** Removes what no name reaches: layers without an image, what dead makers announced, files that no layer has. */
export async function collectGarbage(
  context: StoreContext,
  options: Parameters<Upkeep['gc']>[0] = {},
): Promise<GcReport> {
  return options.dryRun === true ? collect(context, options) : withRoom(context, () => collect(context, options));
}

async function collect(context: StoreContext, options: NonNullable<Parameters<Upkeep['gc']>[0]>): Promise<GcReport> {
  const { database } = context;
  const { dryRun = false, wait = false, signal } = options;
  const candidates = await unheld(context, await database.unreachable());
  const stale = [...(await database.staleMakings()), ...context.left.values()];
  const strays = await strayFiles(context);
  const files = [...new Set([...stale, ...strays].map(({ name }) => name))];
  if (dryRun) return report(candidates, files, strays);
  signal?.throwIfAborted();
  const removed = await removeUnreached(context, candidates);
  await discard(context, stale, { later: true });
  for (const { name } of strays) await rm(toBytes(inRoot(context, name)), { force: true });
  if (wait) await context.sweeper.finish(signal === undefined ? {} : { signal });
  return report(removed, files, strays);
}

/** Without those that somebody looks at, and what they lie on: their directories must not go from under a mount. */
async function unheld(context: StoreContext, candidates: readonly LayerRow[]): Promise<LayerRow[]> {
  const kept = new Set<LayerId>();
  const free: LayerRow[] = [];
  for (const layer of candidates) {
    if (!kept.has(layer.driverId) && !(await isHeld(context, layer.driverId))) free.push(layer);
    else if (layer.parent !== undefined) kept.add(layer.parent);
  }
  return free;
}

function report(
  layers: readonly LayerRow[],
  files: readonly string[],
  strays: readonly { readonly sizeBytes: number }[],
): GcReport {
  const sum = (parts: readonly { readonly sizeBytes: number }[]): number =>
    parts.reduce((total, part) => total + part.sizeBytes, 0);
  return {
    layers: layers.map(({ driverId, diffId, sizeBytes }) => {
      const digest = asDigest(diffId);
      return { id: driverId, sizeBytes, ...(digest === undefined ? {} : { diffId: digest }) };
    }),
    files,
    freedBytes: sum(layers) + sum(strays),
  };
}

/** Records and kept tars of layers that are neither registered nor being made: only a restored database leaves such. */
async function strayFiles(context: StoreContext): Promise<{ readonly name: string; readonly sizeBytes: number }[]> {
  const { database } = context;
  const files = await readdir(toBytes(database.layout.records));
  const known = new Set(await database.known(files.map(ownerOf)));
  const strays: { name: string; sizeBytes: number }[] = [];
  for (const file of files) {
    const name = `records/${file}`;
    const id = ownerOf(file);
    if (known.has(id) || (name !== recordOf(id) && name !== keptOf(id))) continue; // the rest is not ours to judge
    const found = await stat(toBytes(inRoot(context, name))).catch(() => undefined); // gone meanwhile: no stray
    if (found !== undefined) strays.push({ name, sizeBytes: found.size });
  }
  return strays;
}

function ownerOf(file: string): LayerId {
  return file.slice(0, 64) as LayerId;
}
