import type { ByteString } from '../../base/bytes.ts';
import type { IdMaps } from '../../base/id-map.ts';
import type { JobContext } from '../../base/pool.ts';
import { type RingMemory, RingWriter } from '../../base/ring.ts';
import type { Change } from '../../base/values.ts';
import { packTree } from '../../diff/pack.ts';
import type { Packable } from '../../diff/types.ts';
import { walkChanges, walkDifferences } from '../../diff/walk.ts';
import { inodeKey, isDirectory } from '../../fs/stat.ts';
import type { Jail } from './jail.ts';
import { listChanges, type Wanted } from './list.ts';
import { type Out, writeInto, writerOf } from './out.ts';
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

export interface PackRequest {
  /** What is compared here, or what the job `steps` writes, which compares. */
  readonly of: Views | StepRings;
  readonly ids: IdMaps;
  readonly xattrs: 'all' | 'docker';
  readonly to: Out;
  /** A path on the filesystem that is written back at the end, for who will sync it: this thread has nothing else to do then. */
  readonly writeBack?: ByteString | undefined;
}

/** Job: the layer tar of what differs. Answers what an archive cannot hold. */
export function pack(request: PackRequest, context: JobContext, jail: Jail): readonly string[] {
  using writer = writerOf(request.to);
  const skipped: string[] = [];
  let bytes = 0;
  const packed = (view: ByteString, upper: ByteString | undefined, differences: Iterable<Packable>): void => {
    const options = {
      xattrs: request.xattrs,
      ids: request.ids,
      ...(upper === undefined ? {} : { upper }),
      skipped: (path: ByteString, because: string) => {
        if (skipped.length < 100) skipped.push(`${because}: ${path}`);
      },
    };
    packTree(view, differences, options, (chunk) => {
      context.check();
      writeInto(writer, chunk);
      bytes += chunk.length;
      context.done(bytes);
    });
  };
  const { of } = request;
  if ('steps' in of)
    withSteps(of, { jail, check: () => context.check() }, ({ view, upper }, steps) => packed(view, upper, steps));
  else {
    withViews(of, jail, (places) => {
      const { view, base, upper } = places;
      packed(view, upper?.upper, walkDifferences(view, base, walkOptions(of, places, context)));
    });
  }
  writer.end();
  if (request.writeBack !== undefined) sync({ path: request.writeBack });
  return skipped;
}

export interface ChangesRequest extends Wanted {
  readonly views: Views;
  readonly to: RingMemory;
}

const KINDS: Readonly<Record<Change['kind'], string>> = { add: 'A', modify: 'C', delete: 'D', rename: 'R' };

/** Job: what differs, as `A/path\0` records in a ring; `R/to\0/from\0` for a rename. */
export function changes(request: ChangesRequest, context: JobContext, jail: Jail): void {
  const writer = new RingWriter(request.to);
  withViews(request.views, jail, (places) => {
    let records = '';
    for (const change of listChanges(request.views, places, context, request)) {
      if (change === undefined) continue;
      const { kind, path, from } = change;
      records += `${KINDS[kind]}${path}\0${from === undefined ? '' : `${from}\0`}`;
      if (records.length < 32_768) continue;
      writer.write(Buffer.from(records, 'latin1'));
      records = '';
    }
    writer.write(Buffer.from(records, 'latin1'));
  });
  writer.end();
}

/** The changes in what `changes` wrote, piece by piece. */
export async function* readChanges(
  records: AsyncIterable<Uint8Array>,
): AsyncGenerator<readonly Change[], void, undefined> {
  const kinds: Readonly<Record<string, Change['kind']>> = { A: 'add', C: 'modify', D: 'delete' };
  let rest = '';
  let renamed: ByteString | undefined;
  for await (const chunk of records) {
    const parts = (rest + Buffer.from(chunk).toString('latin1')).split('\0');
    rest = parts.pop() ?? '';
    const found: Change[] = [];
    for (const part of parts) {
      if (renamed !== undefined) {
        found.push({ kind: 'rename', path: renamed, from: part as ByteString });
        renamed = undefined;
        continue;
      }
      const path = part.slice(1) as ByteString;
      if (part.startsWith(KINDS.rename)) renamed = path;
      else found.push({ kind: kinds[part.slice(0, 1)] ?? 'modify', path });
    }
    yield found;
  }
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
