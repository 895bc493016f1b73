import type { ByteString } from '../../base/bytes.ts';
import type { JobContext } from '../../base/pool.ts';
import { type RingMemory, RingWriter } from '../../base/ring.ts';
import type { Packable } from '../../diff/types.ts';
import { walkChanges, walkDifferences } from '../../diff/walk.ts';
import { doAll } from '../../fs/read-ahead.ts';
import { inodeKey, isDirectory } from '../../fs/stat.ts';
import { recordOf } from './change-records.ts';
import type { Jail } from './jail.ts';
import { listChanges, type Wanted } from './list.ts';
import { type Out, writeInto, writerOf } from './out.ts';
import { type Packed, type Packing, packed } from './packing.ts';
import { type StepRings, withSteps } from './steps.ts';
import { sync } from './sync.ts';
import { reasonToWalk, type Views, walkOptions, withViews } from './views.ts';

export interface WhyWalkRequest {
  readonly views: Views;
  /** As in `ChangesRequest`. */
  readonly renames: boolean;
}

/** Job: why the upper does not tell what differs, undefined where it does. */
export function whyWalk({ views, renames }: WhyWalkRequest, _context: JobContext, jail: Jail): string | undefined {
  return withViews(views, jail, (places) => reasonToWalk(views, places, { renames }));
}

export interface PackRequest extends Packing {
  /** What is compared here, or what the job `steps` writes, which compares. */
  readonly of: Views | StepRings;
  readonly to: Out;
  /** A path on the filesystem that is written back at the end, for who will sync it: this thread has nothing else to do then. */
  readonly writeBack?: ByteString | undefined;
}

/** Job: the layer tar of what differs. Answers what an archive cannot hold. */
export function pack(request: PackRequest, context: JobContext, jail: Jail): readonly string[] {
  using writer = writerOf(request.to);
  let bytes = 0;
  const out = (chunk: Uint8Array): void => {
    context.check();
    writeInto(writer, chunk);
    bytes += chunk.length;
    context.done(bytes);
  };
  const run = (trees: Packed, differences: Iterable<Packable>): readonly string[] => {
    const { pieces, skipped } = packed(trees, request, differences, out);
    doAll(pieces);
    return skipped;
  };
  const { of } = request;
  const skipped =
    'steps' in of
      ? withSteps(of, { jail, check: () => context.check() }, run)
      : withViews(of, jail, (places) => {
          const { view, base, upper } = places;
          const differences = walkDifferences(view, base, walkOptions(of, places, context));
          return run({ view, upper: upper?.upper }, differences);
        });
  writer.end();
  if (request.writeBack !== undefined) sync({ path: request.writeBack });
  return skipped;
}

export interface ChangesRequest extends Wanted {
  readonly views: Views;
  readonly to: RingMemory;
}

/** Job: what differs, as `A/path\0` records in a ring; `R/to\0/from\0` for a rename. */
export function changes(request: ChangesRequest, context: JobContext, jail: Jail): void {
  const writer = new RingWriter(request.to);
  withViews(request.views, jail, (places) => {
    let records = '';
    for (const found of listChanges(request.views, places, context, request)) {
      for (const change of found ?? []) records += recordOf(change);
      if (records.length < 32_768) continue;
      writer.write(Buffer.from(records, 'latin1'));
      records = '';
    }
    writer.write(Buffer.from(records, 'latin1'));
  });
  writer.end();
}

export interface DiffSizeRequest {
  readonly views: Views;
}

/** Job: the sum of the sizes of added and modified files, hard links once (driver-behaviour D9c). */
export function diffSize(request: DiffSizeRequest, context: JobContext, jail: Jail): number {
  return withViews(request.views, jail, (places) => {
    const linked = new Set<string>();
    let sum = 0;
    const options = walkOptions(request.views, places, context);
    for (const { stat } of walkChanges(places.view, places.base, 'core', options)) {
      if (stat === undefined || isDirectory(stat)) continue;
      if (stat.nlink > 1) {
        const key = inodeKey(stat);
        if (linked.has(key)) continue;
        linked.add(key);
      }
      sum += stat.sizeBytes;
    }
    return sum;
  });
}
