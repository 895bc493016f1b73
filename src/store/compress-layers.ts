import { quote } from '../base/bytes.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import { together } from '../base/together.ts';
import type { Abortable, ByteStream } from '../base/values.ts';
import { copyRange } from '../graph/blobs.ts';
import type { FileRange } from '../graph/jobs/inflate.ts';
import type { PackedBlob } from '../graph/jobs/out.ts';
import type { FilePlace } from '../graph/storage-driver.ts';
import { OCI_LAYER_TAR } from '../oci/media-type.ts';
import { blobBytes } from '../transport/layer-streams.ts';
import type { LayerToSave } from '../transport/write-archive.ts';
import type { StoreContext } from './context.ts';
import { layerTarTo } from './layer-tar.ts';
import type { LayerRow } from './rows.ts';
import { temporaryFile } from './spool.ts';
import type { Progressing } from './types.ts';

/** Layers as compressed blobs, in a nameless file until disposal. */
export interface CompressedLayers extends AsyncDisposable {
  readonly layers: ReadonlyMap<string, LayerToSave>;
  open(layer: LayerToSave): ByteStream;
  write(layer: LayerToSave, to: FilePlace, options: Abortable): Promise<void>;
}

/** Larger tars have all threads, one after another; others have one each, side by side. */
const SMALL_BYTES = 2 << 20;

/**
 * Compresses the tars of `rows` (by diff id): an archive tells a blob's size and digest before its bytes. Each has its
 * place in one sparse file, apart from the next one by what it can take at most.
 */
export async function compressLayers(
  context: StoreContext,
  rows: ReadonlyMap<string, LayerRow>,
  compress: 'gzip' | 'zstd',
  options: Progressing,
): Promise<CompressedLayers> {
  const file = await temporaryFile(context);
  const { fd } = file;
  const places = new Map<string, number>();
  let end = 0;
  for (const [diffId, { tarBytes }] of rows) {
    places.set(diffId, end);
    end += roomFor(tarBytes);
  }
  const placeOf = (diffId: string): number => places.get(diffId) as number;
  const rangeOf = ({ diffId, sizeBytes }: LayerToSave): FileRange => {
    return { fd, offset: placeOf(diffId), length: sizeBytes };
  };
  try {
    const blobs = await together(options, (signal) => {
      let before: Promise<unknown> = Promise.resolve();
      const one = async ([diffId, row]: readonly [string, LayerRow]): Promise<readonly [string, PackedBlob]> => {
        const oneThread = row.tarBytes <= SMALL_BYTES;
        const bytesTotal = row.tarBytes;
        const work = async (): Promise<PackedBlob> => {
          signal.throwIfAborted();
          const blob = await layerTarTo(
            context,
            row,
            { fd, offset: placeOf(diffId) },
            {
              compress,
              oneThread,
              signal,
              onBytes: (bytesDone) => options.onProgress?.({ step: 'pack', layer: diffId, bytesDone, bytesTotal }),
            },
          );
          return blob as PackedBlob;
        };
        const done = oneThread ? work() : before.then(work, work);
        if (!oneThread) before = done;
        return [diffId, await done];
      };
      return [...rows].toSorted(([, a], [, b]) => b.tarBytes - a.tarBytes).map(one);
    });
    const mediaType = `${OCI_LAYER_TAR}+${compress}`;
    const layers = blobs.map(([diffId, blob]) => [diffId, { diffId, ...blob, mediaType } as LayerToSave] as const);
    return {
      layers: new Map(layers),
      open: (layer) => blobBytes(rangeOf(layer), options),
      write: (layer, to, { signal }) => copyRange(context.threads, { from: rangeOf(layer), to }, { signal }),
      [Symbol.asyncDispose]: () => file.close(),
    };
  } catch (error) {
    await file.close();
    throw isFull(error) ? noRoom(context, error) : error;
  }
}

/** Both formats store what they cannot make smaller: with less than 1 % more, and a little for each stream. */
function roomFor(tarBytes: number): number {
  return Math.ceil((tarBytes * 1.01 + 65_536) / 4096) * 4096;
}

function isFull(error: unknown): error is StorageError {
  return isStorageError(error, 'resource-exhausted') && error.syscall === 'write';
}

function noRoom({ database }: StoreContext, cause: StorageError): StorageError {
  const { tmp } = database.layout;
  return new StorageError(
    'resource-exhausted',
    `Cannot compress layers in ${quote(tmp)}: no space is left for them; make some, or save without compression`,
    { path: tmp, cause },
  );
}
