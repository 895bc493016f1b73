import type { ByteString } from '../base/bytes.ts';
import { sha256 } from '../base/crypto.ts';
import type { Abortable } from '../base/values.ts';
import { syncfsBeside } from '../linux/sync.ts';
import type { ApplyOptions, ApplyReport } from './apply.ts';
import { fill, unpackTar } from './fill.ts';
import { digestMemory, putDigest } from './jobs/hash.ts';
import type { Packing, PackingHere } from './jobs/packing.ts';
import type { Views } from './jobs/views.ts';
import type { Threads } from './threads.ts';
import type { FillTarget } from './unpacked.ts';

// Tars that the asker's thread packs, where `threads` have it so.

/** undefined where a thread is to pack. */
export async function packingHere(
  threads: Threads,
  views: Views,
  how: Packing & { readonly bytes: boolean },
  { signal }: Abortable,
): Promise<PackingHere | undefined> {
  if (!threads.here) return undefined;
  const { PackingHere } = await import('./jobs/packing.ts');
  return PackingHere.begin(views, { ...how, ...(signal === undefined ? {} : { signal }) });
}

/** Fills a layer from it. The filesystem of `home` is written back from when all is packed. */
export async function unpackHere(
  threads: Threads,
  packing: PackingHere,
  { target, home }: { readonly target: FillTarget; readonly home: ByteString },
  options: ApplyOptions,
): Promise<ApplyReport> {
  let skipped: readonly string[] = [];
  let written: Promise<void> | undefined;
  // The thread that unpacks has more to do than this one.
  const tarSha256 = digestMemory();
  async function* tar(): AsyncGenerator<Uint8Array> {
    let hash: ReturnType<typeof sha256> | undefined; // loaded once somebody has something to do
    skipped = yield* packing.stream((piece) => {
      hash ??= sha256();
      hash.update(piece);
    });
    putDigest(tarSha256, (hash ?? sha256()).digest());
    written = syncfsBeside(home).catch(() => {}); // who seals the layer is told
  }
  try {
    const unpacked = await fill(threads, target, options, (request) => {
      const ofRing: typeof request = (from) => request(from.kind === 'ring' ? { ...from, tarSha256 } : from);
      return unpackTar(threads, tar(), (from) => ({ ...ofRing(from), zerosAreHoles: true }), options);
    });
    const report = await unpacked.settle();
    return { ...report, notes: [...skipped, ...report.notes] };
  } finally {
    await written;
  }
}
