import type { ByteString } from '../base/bytes.ts';
import { nowMs } from '../base/clock.ts';
import type { Abortable } from '../base/values.ts';
import { writeBackBeside } from '../linux/sync.ts';
import type { ApplyOptions, TransferReport } from './apply.ts';
import { fill, type Unpack } from './fill.ts';
import type { Packing, PackingHere } from './jobs/packing.ts';
import type { SettleAnswer, SettleRequest } from './jobs/settle.ts';
import type { Views } from './jobs/views.ts';
import { TOLD_MS } from './streams.ts';
import type { Threads } from './threads.ts';
import type { FillTarget } from './unpacked.ts';

// Tars that the asker's thread packs, where `threads` have it so.

/** undefined where a thread is to pack. */
export async function packingHere(
  threads: Threads,
  views: Views,
  how: Packing,
  { signal }: Abortable,
): Promise<PackingHere | undefined> {
  if (!threads.here) return undefined;
  const { PackingHere } = await import('./jobs/packing.ts');
  return PackingHere.begin(views, { ...how, ...(signal === undefined ? {} : { signal }) });
}

/** Fills a layer from it, and settles that. The filesystem of `home` is written back meanwhile. */
export async function transferHere(
  threads: Threads,
  packing: PackingHere,
  { target, home }: { readonly target: FillTarget; readonly home: ByteString },
  options: ApplyOptions,
): Promise<TransferReport> {
  const { TransferHere } = await import('./jobs/transfer.ts');
  const here = new TransferHere(options.signal);
  let writing: Promise<void> | undefined;
  let writtenBack = Promise.resolve();
  let since = nowMs();
  const between = (bytesDone: number, isLast: boolean): void => {
    if (isLast || nowMs() - since >= TOLD_MS) {
      options.onBytes?.(bytesDone);
      since = nowMs();
    }
    if (writing !== undefined) return;
    writing = writeBackBeside(home).finally(() => {
      writing = undefined;
    });
    const [before, now] = [writtenBack, writing];
    writtenBack = before.then(() => now);
    writtenBack.catch(() => {}); // told with the report
    now.catch(() => {});
  };
  try {
    const settle = async (request: SettleRequest): Promise<SettleAnswer> => here.settle(request);
    const unpack: Unpack = (request) => here.unpack(packing, { ...request, zerosAreHoles: true }, between);
    const unpacked = await fill(threads, { ...target, settle }, options, unpack);
    return { ...(await unpacked.settle()), writtenBack };
  } catch (error) {
    await writtenBack.catch(() => {}); // this error was first
    throw error;
  }
}
