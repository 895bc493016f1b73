import type { ByteString } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import { revive, StorageError } from '../base/errors.ts';
import type { IdMaps } from '../base/id-map.ts';
import type { LayerId } from '../base/values.ts';
import type { LayerContent } from '../driver/driver.ts';
import type { MarkStyle } from '../fs/whiteouts.ts';
import type { ApplyOptions, ApplyReport, SettledChain, Unpacked } from './apply.ts';
import type { SettleAnswer, SettleRequest } from './jobs/settle.ts';
import type { MergeRequest } from './jobs/trees.ts';
import type { UnpackAnswer } from './jobs/unpacking.ts';
import type { Threads } from './threads.ts';

/** The layer that is filled. */
export interface FillTarget {
  readonly id: LayerId;
  /** Its lowers are left out where it is fresh. */
  readonly content: LayerContent;
  /** The trees below it, top first. */
  readonly lowers: () => Promise<readonly ByteString[]>;
  readonly ids: IdMaps;
  /** true: the content is what a mounted layer shows. What it has already is what the changes are done to. */
  readonly mounted?: boolean;
  /** Does the job `settle`, instead of a job thread. */
  readonly settle?: (request: SettleRequest) => Promise<SettleAnswer>;
}

/** What is known of a layer whose own entries are in place. */
export interface Parts {
  readonly threads: Threads;
  readonly target: FillTarget;
  readonly style: MarkStyle;
  /** The tree that was unpacked: the layer's own, or one beside it. */
  readonly root: ByteString;
  readonly staged: boolean;
  readonly options: ApplyOptions;
  readonly unsettled: UnpackAnswer['unsettled'];
  readonly sizeBytes?: number;
  readonly found: Omit<ApplyReport, 'sizeBytes'>;
}

/** See `Unpacked`, and how several are settled together. */
export class UnpackedLayer implements Unpacked {
  readonly #parts: Parts;
  readonly #ended: () => Promise<unknown>;
  /** Once asked for: finding them takes a look at each. */
  #lowers: readonly ByteString[] | undefined;

  /** `ended`: called when it is settled, or could not be. */
  constructor(parts: Parts, ended: () => Promise<unknown> = async () => {}) {
    this.#parts = parts;
    this.#ended = ended;
  }

  get diffId(): Digest {
    return this.#parts.found.diffId;
  }

  /** Absent where the tar came as a stream. */
  get blobDigest(): Digest | undefined {
    return this.#parts.found.blobDigest;
  }

  /** With something more to do at the end. */
  whenEnded(task: () => unknown): UnpackedLayer {
    const ended = async (): Promise<void> => {
      try {
        await this.#ended();
      } finally {
        await task();
      }
    };
    return new UnpackedLayer(this.#parts, ended);
  }

  /** The second half. The layers below must be settled. */
  async settle(): Promise<ApplyReport> {
    const { reports, failure } = await UnpackedLayer.settle([this]);
    if (failure !== undefined) throw failure.error;
    return reports[0] as ApplyReport;
  }

  /**
   * As `settle` of each, in one job: layers that stack, bottom first, each on the one before it. `below`: what the first
   * one lies on, where that was settled so too.
   */
  static async settle(chain: readonly UnpackedLayer[], below?: UnpackedLayer): Promise<SettledChain> {
    const [bottom] = chain;
    if (bottom === undefined) return { reports: [] };
    if (chain.length > 1 && chain.some((layer) => layer.#parts.staged)) {
      throw new StorageError('invalid-argument', 'Cannot settle full copies together: each needs the one before it');
    }
    try {
      return await bottom.#settleWith(chain, below);
    } catch (error) {
      return { reports: [], failure: { error } };
    } finally {
      for (const layer of chain) await layer.#ended();
    }
  }

  async #known(): Promise<readonly ByteString[]> {
    this.#lowers ??= await this.#parts.target.lowers();
    return this.#lowers;
  }

  async #settleWith(chain: readonly UnpackedLayer[], below: UnpackedLayer | undefined): Promise<SettledChain> {
    const { threads, target, style, staged, root, options } = this.#parts;
    const { content, ids } = target;
    const { signal, fresh } = options;
    let under = below;
    for (const layer of chain) {
      if (under !== undefined) layer.#lowers = [under.#parts.target.content.root, ...(await under.#known())];
      under = layer;
    }
    const request: SettleRequest = {
      ids,
      style,
      lowers: await this.#known(),
      lowerStyle: content.whiteouts,
      layers: chain
        .map((layer) => layer.#parts)
        .map((layer) => ({
          root: layer.root,
          unsettled: layer.unsettled,
          ...(layer.sizeBytes === undefined ? {} : { sizeBytes: layer.sizeBytes }),
        })),
    };
    const byThread = (): Promise<SettleAnswer> => threads.jobs.run({ name: 'settle', request }, { signal });
    const { settled, failure } = await (target.settle?.(request) ?? byThread());
    const reports = settled.map(({ sizeBytes, notes }, i) => {
      const { found } = (chain[i] as UnpackedLayer).#parts;
      return { ...found, sizeBytes, notes: [...found.notes, ...notes] };
    });
    if (failure !== undefined) return { reports, failure: { error: revive(failure) } };
    if (staged) {
      const merge: MergeRequest = { staged: root, target: content.root, style };
      signal?.throwIfAborted();
      // Given up in the middle it leaves half of the changes: only where the layer is then thrown away.
      await threads.jobs.run({ name: 'merge', request: merge }, fresh === true ? { signal } : {});
    }
    return { reports };
  }
}
