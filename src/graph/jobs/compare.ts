import { type ByteString, joinBytes } from '../../base/bytes.ts';
import type { IdMaps } from '../../base/id-map.ts';
import type { JobContext } from '../../base/pool.ts';
import { type RingMemory, RingWriter } from '../../base/ring.ts';
import type { Change } from '../../base/values.ts';
import { packTree } from '../../diff/pack.ts';
import type { Rendering, WalkOptions } from '../../diff/types.ts';
import { checkUpper, renamedDirectories, type UpperReading, whyNotUpper } from '../../diff/upper.ts';
import { walkChanges, walkDifferences } from '../../diff/walk.ts';
import { inodeKey, isDirectory } from '../../fs/stat.ts';
import { AT_FDCWD, mkdirat } from '../../linux/inode.ts';
import { mount } from '../../linux/mount.ts';
import type { Mount } from '../../mount/mount.ts';
import { performMount } from '../../mount/perform.ts';
import type { Jail } from './jail.ts';
import { type Out, writeInto, writerOf } from './out.ts';

/** Two trees to compare, as plans: they are mounted where only the job sees them, and vanish with it. */
export interface Views {
  /** Read-only. */
  readonly view: Mount;
  /** Read-only; absent: compared with nothing. */
  readonly base?: Mount;
  /** The upper directory of the view, where the base is what lies below it. */
  readonly upper?: UpperReading;
  /** Why the upper does not tell what changed, where that is known before. */
  readonly whole?: string;
  /** Where there is no upper: when the layer was made. */
  readonly createdNs?: bigint;
  /** A directory that exists; what is in it is hidden from the job. */
  readonly scratch: ByteString;
}

interface Places {
  readonly view: ByteString;
  readonly base: ByteString | undefined;
  /** The upper without what somebody mounted inside it: the view shows none of that. */
  readonly upper: UpperReading | undefined;
}

function withViews<T>(views: Views, jail: Jail, task: (places: Places) => T): T {
  const inPlace = placesOf(views);
  const mounted = (): T => {
    const none = 'none' as ByteString;
    mount(none, views.scratch, 'tmpfs' as ByteString, 0, 'mode=700,size=64k' as ByteString);
    const place = (name: string, plan: Mount): ByteString => {
      const path = joinBytes(views.scratch, name as ByteString);
      mkdirAt(path);
      performMount(plan, path);
      return path;
    };
    /** A single layer shows its own marks where it is bound; as an overlay it shows what the view makes of them. */
    const asOverlay = (plan: Mount): Mount => {
      if (plan.type !== 'bind' || views.view.type !== 'overlay') return plan;
      const nothing = joinBytes(views.scratch, 'nothing' as ByteString);
      mkdirAt(nothing);
      const { upper: _, work: __, short: ___, lower: ____, dataOnly: _____, ...reading } = views.view;
      return { ...reading, lower: [plan.source, nothing] };
    };
    const { upper } = views;
    return task({
      view: place('view', views.view),
      base: views.base === undefined ? undefined : place('base', asOverlay(views.base)),
      upper:
        upper === undefined
          ? undefined
          : { ...upper, upper: place('upper', { type: 'bind', source: upper.upper, readonly: true }) },
    });
  };
  return inPlace === undefined ? jail.privately(mounted) : jail.privately(mounted, () => task(inPlace));
}

/** Where plain directories lie: they can be read as they are, with what somebody mounted in them. */
function placesOf({ view, base, upper }: Views): Places | undefined {
  if (view.type !== 'bind' || upper !== undefined || (base !== undefined && base.type !== 'bind')) return undefined;
  return { view: view.source, base: base?.source, upper };
}

function mkdirAt(path: ByteString): void {
  mkdirat(AT_FDCWD, path, 0o700);
}

/** The cheapest way that finds everything. */
function walkOptions(
  { createdNs, whole }: Views,
  { view, base, upper }: Places,
  context: JobContext,
  renames = false,
): WalkOptions {
  const check = (): void => context.check();
  if (upper === undefined) return createdNs === undefined ? { check } : { check, createdNs };
  const checked = base === undefined ? undefined : checkUpper(base, upper);
  // A rename is one line, whatever other names the files in it have.
  const moved = checked === undefined ? undefined : checked.redirects && !renames;
  const enough = whole === undefined && whyNotUpper(view, upper, moved) === undefined;
  if (!enough) return { check, upper: upper.upper };
  return { check, upper: upper.upper, guide: upper.style, ...(checked && { listings: checked.listings }) };
}

/** Job: why the upper does not tell what differs, undefined where it does. */
export function whyWalk(views: Views, _context: JobContext, jail: Jail): string | undefined {
  return withViews(views, jail, ({ view, upper }) => (upper === undefined ? undefined : whyNotUpper(view, upper)));
}

export interface PackRequest {
  readonly views: Views;
  readonly ids: IdMaps;
  readonly xattrs: 'all' | 'docker';
  readonly to: Out;
}

/** Job: the layer tar of what differs. Answers what an archive cannot hold. */
export function pack(request: PackRequest, context: JobContext, jail: Jail): readonly string[] {
  using writer = writerOf(request.to);
  const skipped: string[] = [];
  let bytes = 0;
  withViews(request.views, jail, (places) => {
    const { view, base, upper } = places;
    const differences = walkDifferences(view, base, walkOptions(request.views, places, context));
    const options = {
      xattrs: request.xattrs,
      ids: request.ids,
      ...(upper === undefined ? {} : { upper: upper.upper }),
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
  });
  writer.end();
  return skipped;
}

export interface ChangesRequest {
  readonly views: Views;
  readonly rendering: Rendering;
  /** Moved directories as one rename each, where the upper tells of them. */
  readonly renames: boolean;
  readonly to: RingMemory;
}

const KINDS: Readonly<Record<Change['kind'], string>> = { add: 'A', modify: 'C', delete: 'D', rename: 'R' };

/** Job: what differs, as `A/path\0` records in a ring; `R/to\0/from\0` for a rename. */
export function changes(request: ChangesRequest, context: JobContext, jail: Jail): void {
  const writer = new RingWriter(request.to);
  withViews(request.views, jail, (places) => {
    let records = '';
    const options = { ...walkOptions(request.views, places, context, request.renames), ...renamesOf(request, places) };
    for (const { kind, path, from } of walkChanges(places.view, places.base, request.rendering, options)) {
      records += `${KINDS[kind]}${path}\0${from === undefined ? '' : `${from}\0`}`;
      if (records.length < 32_768) continue;
      writer.write(Buffer.from(records, 'latin1'));
      records = '';
    }
    writer.write(Buffer.from(records, 'latin1'));
  });
  writer.end();
}

function renamesOf({ renames }: ChangesRequest, { base, upper }: Places): Pick<WalkOptions, 'renames'> {
  if (!renames || upper === undefined || base === undefined) return {};
  return { renames: renamedDirectories(upper.upper, base, upper.style) };
}

/** The changes in what `changes` wrote. */
export async function* readChanges(records: AsyncIterable<Uint8Array>): AsyncGenerator<Change, void, undefined> {
  const kinds: Readonly<Record<string, Change['kind']>> = { A: 'add', C: 'modify', D: 'delete' };
  let rest = '';
  let renamed: ByteString | undefined;
  for await (const chunk of records) {
    const parts = (rest + Buffer.from(chunk).toString('latin1')).split('\0');
    rest = parts.pop() ?? '';
    for (const part of parts) {
      if (renamed !== undefined) {
        yield { kind: 'rename', path: renamed, from: part as ByteString };
        renamed = undefined;
        continue;
      }
      const path = part.slice(1) as ByteString;
      if (part.startsWith(KINDS.rename)) renamed = path;
      else yield { kind: kinds[part.slice(0, 1)] ?? 'modify', path };
    }
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
