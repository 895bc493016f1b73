import type { ByteString } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';
import type { JobContext } from '../../base/pool.ts';
import { abortRing, type RingMemory, RingReader, RingWriter } from '../../base/ring.ts';
import { countLinks, type Linked, type Links, see } from '../../diff/links.ts';
import type { Packable } from '../../diff/types.ts';
import { walkDifferences } from '../../diff/walk.ts';
import type { WhiteoutStyle } from '../../fs/whiteouts.ts';
import { MNT_DETACH, umount } from '../../linux/mount.ts';
import { closeAll, type Jail, type Standing, standing } from './jail.ts';
import type { Packed } from './packing.ts';
import { type Views, walkOptions, withViews } from './views.ts';

// A large comparison is walked beside the packer, in a thread of its own: each of the two asks as much of the kernel as
// the other. Both are in the mounts of the walker: what the one has looked up the kernel need not look up for the other.

export interface StepsRequest {
  readonly views: Views;
  readonly to: StepRings;
}

/** What goes between the two. */
export interface StepRings {
  /** From the walker to the packer. */
  readonly steps: RingMemory;
  /** Back: what the packer counted, where names of links are to be counted before the first step, which both do. */
  readonly links: RingMemory;
}

/** Begins what asks the packer to count its share; no step does. */
const COUNT = '?';
/** In the place of a step: the walk failed, and there will be no more. */
const FAILED = '!';

/** What is gathered before it is passed on: little, so that the packer begins soon. */
const PASSED_BYTES = 8192;

const CODES: Readonly<Record<Packable['kind'], string>> = {
  add: 'a',
  modify: 'm',
  delete: 'd',
  rename: 'r',
  carried: 'c',
  implied: 'i',
};
const KINDS = new Map(Object.entries(CODES).map(([kind, code]) => [code, kind as Packable['kind']]));

/** Job: what differs, for `withSteps`. */
export function steps({ views, to }: StepsRequest, context: JobContext, jail: Jail): void {
  const writer = new RingWriter(to.steps);
  const count: typeof countLinks = (view, reading, check) => {
    writer.write(Buffer.from(`${COUNT}${reading.style}`, 'latin1'));
    const missing = countLinks(view, reading, check, { index: 0, of: 2 });
    for (const [key, linked] of readLinks(to.links)) see(missing, key, linked);
    return missing;
  };
  withViews(views, jail, (places) => {
    const own = places.mounted === true ? standing() : undefined;
    try {
      const { view, base, upper } = places;
      const header = [view, upper?.upper ?? '', ...(own ?? [])]; // with where this thread is, if it has mounts of its own
      writer.write(Buffer.from(header.join('\0'), 'latin1'));
      let records = '';
      for (const step of walkDifferences(view, base, walkOptions(views, places, context, { count }))) {
        records += encode(step);
        if (records.length < PASSED_BYTES) continue;
        writer.write(Buffer.from(records, 'latin1'));
        records = '';
      }
      writer.write(Buffer.from(records, 'latin1'));
      // To forget what was looked up in it takes long: it is done while the packer is at work.
      if (own !== undefined && base !== undefined) umount(base, MNT_DETACH);
      writer.drain(); // by then the packer is where these descriptors lead
    } catch (error) {
      tellFailed(writer, to);
      throw error;
    } finally {
      if (own !== undefined) closeAll(own);
    }
  });
  writer.end();
}

/** Waits until the packer knows: it may still be on its way to where the descriptors of this thread lead. */
function tellFailed(writer: RingWriter, { links }: StepRings): void {
  abortRing(links); // nobody reads it any more, and whoever fills it would wait
  try {
    writer.write(Buffer.from(`${FAILED}\0`, 'latin1'));
    writer.drain();
  } catch {
    // The ring was given up: then it comes to nothing there.
  }
}

function textOf(bytes: Uint8Array = new Uint8Array()): string {
  return Buffer.from(bytes).toString('latin1');
}

/** Fields end with a NUL. */
function writeLinks(to: RingMemory, missing: Links): void {
  const writer = new RingWriter(to);
  let records = '';
  for (const [key, { path, nlink, seen }] of missing) {
    records += `${key}\0${path}\0${nlink}\0${seen}\0`;
    if (records.length < PASSED_BYTES) continue;
    writer.write(Buffer.from(records, 'latin1'));
    records = '';
  }
  writer.write(Buffer.from(records, 'latin1'));
  writer.end();
}

function* readLinks(from: RingMemory): Generator<[string, Linked], void, undefined> {
  let fields: string[] = [];
  for (const field of readFields(new RingReader(from))) {
    fields.push(field);
    if (fields.length < 4) continue;
    const [key, path, nlink, seen] = fields as [string, ByteString, string, string];
    yield [key, { path, nlink: Number(nlink), seen: Number(seen) }];
    fields = [];
  }
}

/** What ends with a NUL, without it. */
function* readFields(reader: RingReader): Generator<string, void, undefined> {
  let rest = '';
  for (let view = reader.next(); view !== undefined; view = reader.next()) {
    const fields = (rest + textOf(view)).split('\0');
    reader.release();
    rest = fields.pop() ?? '';
    yield* fields;
  }
}

/** Kind, whether it lies in the upper, mode in octal digits, a path that begins with `/`, a NUL. */
function encode({ kind, itself, stat, path }: Packable): string {
  return `${CODES[kind]}${itself === true ? 1 : 0}${stat === undefined ? '' : stat.mode.toString(8)}${path}\0`;
}

/** Runs `task` where the job `steps` is that writes into the ring, with what it finds. */
export function withSteps<T>(
  from: StepRings,
  { jail, check }: { readonly jail: Jail; readonly check: () => void },
  task: (trees: Packed, steps: Iterable<Packable>) => T,
): T {
  const reader = new RingReader(from.steps);
  const [view, upper, ...other] = textOf(reader.next()).split('\0') as [ByteString, ByteString, ...string[]];
  const run = (): T => {
    reader.release();
    const first = textOf(reader.next());
    if (first.startsWith(COUNT)) {
      reader.release();
      const style = first.slice(1) as Exclude<WhiteoutStyle, 'none'>;
      writeLinks(from.links, countLinks(view, { upper, style }, check, { index: 1, of: 2 }));
    }
    return task({ view, upper: upper === '' ? undefined : upper }, readSteps(reader));
  };
  return other.length === 0 ? run() : jail.beside(other.map(Number) as unknown as Standing, run);
}

function* readSteps(reader: RingReader): Generator<Packable, void, undefined> {
  for (const record of readFields(reader)) {
    if (record === FAILED) throw new StorageError('canceled', 'Cannot pack: the walk failed');
    yield decode(record);
  }
}

function decode(record: string): Packable {
  const slash = record.indexOf('/');
  return {
    kind: KINDS.get(record.slice(0, 1)) as Packable['kind'],
    path: record.slice(slash) as ByteString,
    itself: record[1] === '1',
    ...(slash === 2 ? {} : { stat: { mode: Number.parseInt(record.slice(2, slash), 8) } }),
  };
}
