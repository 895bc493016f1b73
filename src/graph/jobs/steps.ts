import type { ByteString } from '../../base/bytes.ts';
import type { JobContext } from '../../base/pool.ts';
import { type RingMemory, RingReader, RingWriter } from '../../base/ring.ts';
import type { Packable } from '../../diff/types.ts';
import { walkDifferences } from '../../diff/walk.ts';
import { closeAll, type Jail, type Standing, standing } from './jail.ts';
import { type Views, walkOptions, withViews } from './views.ts';

// A large comparison is walked beside the packer, in a thread of its own: each of the two asks as much of the kernel as
// the other. Both are in the mounts of the walker: what the one has looked up the kernel need not look up for the other.

export interface StepsRequest {
  readonly views: Views;
  readonly to: RingMemory;
}

/** What is gathered before it is passed on: little, so that the packer begins soon. */
const PASSED_BYTES = 8192;

const CODES: Readonly<Record<Packable['kind'], string>> = {
  add: 'a',
  modify: 'm',
  delete: 'd',
  rename: 'r',
  carried: 'c',
};
const KINDS = new Map(Object.entries(CODES).map(([kind, code]) => [code, kind as Packable['kind']]));

/** What comes before the steps. */
interface Walked {
  readonly view: ByteString;
  readonly upper: ByteString | undefined;
  /** Where the walker is, if it has mounts of its own. */
  readonly standing?: Standing;
}

/** Job: what differs, for `withSteps`. */
export function steps({ views, to }: StepsRequest, context: JobContext, jail: Jail): void {
  const writer = new RingWriter(to);
  withViews(views, jail, (places) => {
    const own = places.mounted === true ? standing() : undefined;
    try {
      const { view, base, upper } = places;
      const walked: Walked = { view, upper: upper?.upper, ...(own === undefined ? {} : { standing: own }) };
      writer.write(Buffer.from(JSON.stringify(walked), 'latin1'));
      let records = '';
      for (const step of walkDifferences(view, base, walkOptions(views, places, context))) {
        records += encode(step);
        if (records.length < PASSED_BYTES) continue;
        writer.write(Buffer.from(records, 'latin1'));
        records = '';
      }
      writer.write(Buffer.from(records, 'latin1'));
      writer.drain(); // by then the packer is where these descriptors lead
    } finally {
      if (own !== undefined) closeAll(own);
    }
  });
  writer.end();
}

/** Kind, whether it lies in the upper, mode in octal digits, a path that begins with `/`, a NUL. */
function encode({ kind, itself, stat, path }: Packable): string {
  return `${CODES[kind]}${itself === true ? 1 : 0}${stat === undefined ? '' : stat.mode.toString(8)}${path}\0`;
}

/** Runs `task` where the job `steps` is that writes into the ring, with what it finds. */
export function withSteps<T>(
  from: RingMemory,
  jail: Jail,
  task: (places: Pick<Walked, 'view' | 'upper'>, steps: Iterable<Packable>) => T,
): T {
  const reader = new RingReader(from);
  const { standing: other, ...places } = JSON.parse(Buffer.from(reader.next() ?? '').toString('latin1')) as Walked;
  const run = (): T => {
    reader.release();
    return task(places, readSteps(reader));
  };
  return other === undefined ? run() : jail.beside(other, run);
}

function* readSteps(reader: RingReader): Generator<Packable, void, undefined> {
  let rest = '';
  for (let view = reader.next(); view !== undefined; view = reader.next()) {
    const records = (rest + Buffer.from(view).toString('latin1')).split('\0');
    reader.release();
    rest = records.pop() ?? '';
    for (const record of records) yield decode(record);
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
