import type { Digest } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';
import { digestOf } from '../linux/sha256.ts';
import { chainId } from '../oci/chain-id.ts';
import { parseConfig } from '../oci/config.ts';
import { commitConfig } from '../oci/image.ts';
import { formatPlatform } from '../oci/platform.ts';
import { heeding, inRoot, newLayerId, newLayerMakings, recordOf, type StoreContext, undoing } from './context.ts';
import { discardOrWarn } from './discard.ts';
import { Durable } from './durable.ts';
import { givenName } from './given-name.ts';
import type { Committed, LayerRow, WritableRow } from './rows.ts';
import type { CommitOptions, LoadedImage } from './types.ts';

/**
 * Makes an image of what a writable layer shows: its changes become a layer of their own, unpacked from the very tar
 * whose digest names it; the writable layer is only read.
 */
export async function commitWritable(
  context: StoreContext,
  writable: WritableRow,
  reference: string | undefined,
  options: CommitOptions = {},
): Promise<LoadedImage> {
  const { driver } = context;
  const { database } = heeding(context, options);
  const names = reference === undefined ? [] : [givenName(reference)];
  const below = await layersBelow(context, writable);
  const base = writable.image === undefined ? undefined : await database.image(writable.image);
  const diffIds = below.map((layer) => layer.diffId as Digest);
  const chains = below.map((layer) => layer.chainId as Digest);
  const id = newLayerId();
  // Refused before anything is packed, where the new config would be refused.
  const config = (diffId: Digest): Buffer =>
    commitConfig({ diffIds, ...(base === undefined ? {} : { config: Buffer.from(base.config) }) }, diffId, {
      created: options.createdAt ?? now(),
      ...(options.author === undefined ? {} : { author: options.author }),
      ...(options.message === undefined ? {} : { message: options.message }),
      ...(options.changes === undefined ? {} : { changes: options.changes }),
    });
  config(`sha256:${'0'.repeat(64)}`);
  options.signal?.throwIfAborted();
  const { pin } = await database.pin(chains, newLayerMakings(id));
  let committed: Committed;
  let notes: readonly string[];
  try {
    using durable = await Durable.open(context); // before the first byte
    await driver.create(id, { writable: false, ...parentOf(writable) });
    const report = await driver.transfer(writable.driverId, id, {
      mode: writable.overlayMode,
      record: inRoot(context, recordOf(id)),
      fresh: true,
      ...(options.signal === undefined ? {} : { signal: options.signal }),
      onBytes: (bytesDone) => options.onProgress?.({ step: 'pack', bytesDone }),
    });
    options.onProgress?.({ step: 'settle', bytesDone: 0 });
    // While the disk is at work.
    const bytes = config(report.diffId);
    const parsed = parseConfig(bytes, 'the new config');
    const digest = digestOf(bytes);
    const chain = chainId(chains.at(-1), report.diffId, digestOf);
    await durable.seal([id], options);
    await report.writtenBack;
    options.onProgress?.({ step: 'settle', bytesDone: report.tarBytes });
    options.signal?.throwIfAborted();
    notes = report.notes;
    const { lowersMax } = await driver.capabilities();
    const depth = below.length + 1;
    if (depth > lowersMax) {
      notes = [
        ...notes,
        `the image has ${depth} layers, and ${driver.name} mounts a writable layer on at most ${lowersMax}: it can be saved and exported, no layer can be created on it`,
      ];
    }
    committed = await database.commitImages({
      layers: [
        {
          driverId: id,
          ...parentOf(writable),
          diffId: report.diffId,
          chainId: chain,
          recordFile: recordOf(id),
          exact: report.exact,
          sizeBytes: report.sizeBytes,
          tarBytes: report.tarBytes,
          inodes: report.entries,
        },
      ],
      images: [
        {
          digest,
          config: bytes,
          chainId: chain,
          platform: parsed.platform === undefined ? '' : formatPlatform(parsed.platform),
          ...(parsed.created === undefined ? {} : { createdAt: parsed.created }),
          names,
        },
      ],
      blobs: [],
      pin,
    });
  } catch (error) {
    // From disk first: on a full one that makes the room which the database needs.
    const undo = undoing(context);
    await discardOrWarn(undo, [id]);
    await undo.database
      .unpin(pin)
      .catch((e: unknown) => context.log.warn(`Layers stay in the store for now: ${String(e)}`));
    throw error;
  }
  // From here on the layer is the store's: whatever fails, it is not taken away.
  await discardOrWarn(context, committed.lost, { later: true });
  const [result] = committed.images;
  if (result === undefined) throw new StorageError('internal', 'The database answered nothing for a new image');
  return { ...result.image, existed: result.existed, moved: result.moved, notes };
}

/** The stored layers that a writable layer lies on, bottom first. */
async function layersBelow({ database }: StoreContext, writable: WritableRow): Promise<LayerRow[]> {
  const layers = await database.layersBelow(writable.driverId);
  const whole = layers.at(-1)?.driverId === writable.parent && layers[0]?.parent === undefined;
  if (whole && layers.every(({ diffId, chainId }) => diffId !== undefined && chainId !== undefined)) return layers;
  throw new StorageError('corrupt', `Cannot commit "${writable.name}": a layer below it is not in the store`, {
    layer: writable.driverId,
  });
}

function parentOf(writable: WritableRow): { readonly parent?: LayerId } {
  return writable.parent === undefined ? {} : { parent: writable.parent };
}

/** As Go writes times (RFC3339Nano: no zeros at the end), so that a tool that rewrites a config leaves its digest as it is. */
function now(): string {
  return new Date().toISOString().replace(/\.?0+Z$/, 'Z');
}
