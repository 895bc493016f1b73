import type { ByteString } from '../../base/bytes.ts';
import { nowMs, turn } from '../../base/clock.ts';
import type { IdMaps } from '../../base/id-map.ts';
import type { Abortable } from '../../base/values.ts';
import type { TarPieces } from '../../diff/output.ts';
import { FLUSH, packPieces } from '../../diff/pack.ts';
import type { Listing, Packable } from '../../diff/types.ts';
import { checkUpper, type UpperDirectory } from '../../diff/upper.ts';
import { walkDifferencesInPieces } from '../../diff/walk.ts';
import { isFile } from '../../fs/stat.ts';
import { DT_DIR, lstatat } from '../../linux/inode.ts';
import { ENOENT } from '../../linux/libc.ts';
import { Jail } from './jail.ts';
import { type EnteredViews, enterViews, type Views } from './views.ts';

/** What is packed how. */
export interface Packing {
  readonly ids: IdMaps;
  readonly xattrs: 'all' | 'docker';
}

/** What an archive cannot hold is told of so many. */
const SKIPPED_MAX = 100;

/** The trees to read. */
export interface Packed {
  readonly view: ByteString;
  readonly upper: ByteString | undefined;
}

/** The pieces of the layer tar of what differs, and what it cannot hold, once all of them are done. */
export function packed(
  { view, upper }: Packed,
  packing: Packing,
  differences: Iterable<Packable | undefined>,
  out: TarPieces,
): { readonly pieces: ReturnType<typeof packPieces>; readonly skipped: readonly string[] } {
  const skipped: string[] = [];
  const options = {
    xattrs: packing.xattrs,
    ids: packing.ids,
    ...(upper === undefined ? {} : { upper }),
    skipped: (path: ByteString, because: string) => {
      if (skipped.length < SKIPPED_MAX) skipped.push(`${because}: ${path}`);
    },
  };
  return { pieces: packPieces(view, differences, options, out), skipped };
}

/** So long nobody else hears anything in this thread. */
const AWAY_MS = 50;
/** What is done then: what is left is little to write back after the last one. */
const LATE = 7 / 8;
/** Where it is longer before the first byte, a thread is to do it; where more is in the upper, two are faster. */
const DEAF_MS = 250;
const NAMES_MAX = 4000;
const BYTES_MAX = 16 * 1024 * 1024;

/** Ends a look at an upper. */
const TOO_LONG = new Error('a tar takes a thread');

/**
 * As the job `pack`, in the thread that asks, for a program that does this alone: to start a thread takes longer than to
 * pack most changes. Whoever is heard meanwhile, or given bytes, finds this thread among the mounts of the process.
 */
export class PackingHere implements Disposable {
  readonly #entered: EnteredViews;
  readonly #options: Packing & Abortable;
  readonly #walk: () => Iterable<Packable | undefined>;
  /** In the upper. */
  readonly #names: number;

  private constructor(
    entered: EnteredViews,
    options: Packing & Abortable,
    { walk, names }: { readonly walk: () => Iterable<Packable | undefined>; readonly names: number },
  ) {
    this.#entered = entered;
    this.#options = options;
    this.#walk = walk;
    this.#names = names;
  }

  /** undefined where threads are to do it: whole trees are to be compared, or the upper holds much. */
  static begin(views: Views, options: Packing & Abortable): PackingHere | undefined {
    const { upper: reading, whole, base: below } = views;
    if (reading?.noIndex !== true || whole !== undefined || below === undefined) return undefined;
    const entered = enterViews(views, new Jail({ lent: true }));
    try {
      const { view, base, upper } = entered.places;
      const since = nowMs();
      let count = 0;
      let sizeBytes = 0;
      const look = ({ fd, names, types }: Pick<UpperDirectory, 'fd' | 'names' | 'types'>): Listing['stats'] => {
        options.signal?.throwIfAborted();
        count += names.length;
        if (count > NAMES_MAX) throw TOO_LONG;
        const stats = names.map((name, i) => (types[i] === DT_DIR ? undefined : lstatat(fd, name, ENOENT)));
        for (const stat of stats) if (stat !== undefined && isFile(stat)) sizeBytes += stat.sizeBytes;
        if (sizeBytes > BYTES_MAX || nowMs() - since > DEAF_MS) throw TOO_LONG;
        return stats;
      };
      const found = base === undefined || upper === undefined ? undefined : checkUpper(base, upper, () => {}, look);
      if (upper !== undefined && found?.redirects === false) {
        const how = { upper: upper.upper, guide: upper.style, listings: found.listings, parentsImplied: true };
        entered.leave();
        const walk = (): Iterable<Packable | undefined> => walkDifferencesInPieces(view, base, how);
        return new PackingHere(entered, options, { walk, names: count });
      }
    } catch (error) {
      entered[Symbol.dispose]();
      if (error !== TOO_LONG) throw error;
      return undefined;
    }
    entered[Symbol.dispose]();
    return undefined;
  }

  /** The tar; answers what it cannot hold. */
  async *stream(): AsyncGenerator<Uint8Array, readonly string[], undefined> {
    const { places, enter, leave, forget } = this.#entered;
    const { view, upper } = places;
    const done: Buffer[] = [];
    const trees = { view, upper: upper?.upper };
    const { pieces, skipped } = packed(trees, this.#options, this.#walk(), (bytes) => done.push(Buffer.from(bytes)));
    try {
      for (let ended = false; !ended; ) {
        enter();
        const since = nowMs();
        while (!ended && done.length === 0 && nowMs() - since < AWAY_MS) ended = pieces.next().done === true;
        if (ended) forget();
        else leave();
        yield* done.splice(0);
        await turn();
        this.#options.signal?.throwIfAborted();
      }
      return skipped;
    } finally {
      leave();
      pieces.return();
    }
  }

  /**
   * As `stream`, but `out` gets each piece while this thread is among the mounts, and `between` is called with the bytes
   * done each time it is back, once shortly before the end. What `out` throws ends it.
   */
  async into(out: TarPieces, between: (bytesDone: number, isLast: boolean) => void): Promise<readonly string[]> {
    const { places, enter, leave, forget } = this.#entered;
    const { view, upper } = places;
    let bytesDone = 0;
    let steps = 0; // about one for each name
    let pause = this.#names * LATE;
    let failure: { readonly error: unknown } | undefined;
    const take: TarPieces = (bytes, entries) => {
      bytesDone += bytes.length;
      try {
        if (failure === undefined) out(bytes, entries);
      } catch (error) {
        failure = { error }; // not of reading
      }
    };
    const trees = { view, upper: upper?.upper };
    const { pieces, skipped } = packed(trees, this.#options, this.#walk(), take);
    try {
      for (let ended = false; !ended; ) {
        enter();
        const since = nowMs();
        for (; !ended && failure === undefined && nowMs() - since < AWAY_MS && steps < pause; steps++) {
          ended = pieces.next().done === true;
        }
        if (steps >= pause && !ended && failure === undefined) {
          pause = Number.POSITIVE_INFINITY;
          ended = pieces.next(FLUSH).done === true; // what is written back is to be all that was packed
        }
        leave();
        if (failure !== undefined) throw failure.error;
        await turn(); // who has ended something says so
        between(bytesDone, ended);
        this.#options.signal?.throwIfAborted();
      }
      forget(); // last, as it keeps a core busy
      return skipped;
    } finally {
      leave();
      pieces.return();
    }
  }

  [Symbol.dispose](): void {
    this.#entered[Symbol.dispose]();
  }
}
