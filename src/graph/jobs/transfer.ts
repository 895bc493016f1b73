import type { JobContext } from '../../base/pool.ts';
import { sha256 } from '../../linux/sha256.ts';
import { ToldTar } from '../../tar/told.ts';
import { Jail } from './jail.ts';
import type { PackingHere } from './packing.ts';
import { type SettleAnswer, type SettleRequest, settle } from './settle.ts';
import { type UnpackAnswer, Unpacking, type UnpackRequest } from './unpacking.ts';

/**
 * As the jobs `pack`, `apply` and `settle`, in the thread that asks: what is packed is unpacked as it comes, and no tar
 * goes from thread to thread. What the layer gets is what unpacking that tar would give it.
 */
export class TransferHere {
  readonly #jail = new Jail({ lent: true });
  readonly #context: JobContext;

  constructor(signal: AbortSignal | undefined) {
    this.#context = { check: () => signal?.throwIfAborted(), done: () => {} };
  }

  /** `between`: called now and then, with the bytes done. Answers also what the archive cannot hold. */
  async unpack(
    packing: PackingHere,
    request: UnpackRequest,
    between: Parameters<PackingHere['into']>[1],
  ): Promise<UnpackAnswer> {
    const jail = this.#jail;
    const { root } = request;
    using unpacking = Unpacking.begin(request, this.#context, jail);
    const told = new ToldTar(unpacking);
    const hash = sha256();
    let tarBytes = 0;
    const skipped = await packing.into((bytes, entries) => {
      tarBytes += bytes.length;
      hash.update(bytes);
      jail.inside(root, [], () => told.write(bytes, entries));
    }, between);
    const tarSha256 = hash.digest();
    const unsettled = jail.inside(root, [], () => unpacking.finish(tarBytes, tarSha256));
    const answer = unpacking.answer(unsettled, tarBytes, tarSha256);
    return { ...answer, notes: [...skipped, ...answer.notes] };
  }

  settle(request: SettleRequest): SettleAnswer {
    this.#context.check(); // what it throws itself is told as a failure of a layer
    return settle(request, this.#context, this.#jail);
  }
}
