import type { ByteString } from '../../base/bytes.ts';
import type { JobContext } from '../../base/pool.ts';
import { type RingMemory, RingReader, RingWriter } from '../../base/ring.ts';
import type { Packable } from '../../diff/types.ts';
import { walkDifferences } from '../../diff/walk.ts';
import type { Jail } from './jail.ts';
import { type Views, walkOptions, withViews } from './views.ts';

// A large comparison is walked beside the packer, in a thread and by mounts of its own: each of the two asks as much of
// the kernel as the other.

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

/** Job: what differs, for `readSteps`. */
export function steps({ views, to }: StepsRequest, context: JobContext, jail: Jail): void {
  const writer = new RingWriter(to);
  withViews(views, jail, (places) => {
    let records = '';
    for (const step of walkDifferences(places.view, places.base, walkOptions(views, places, context))) {
      records += encode(step);
      if (records.length < PASSED_BYTES) continue;
      writer.write(Buffer.from(records, 'latin1'));
      records = '';
    }
    writer.write(Buffer.from(records, 'latin1'));
  });
  writer.end();
}

/** Kind, whether it lies in the upper, mode in octal digits, a path that begins with `/`, a NUL. */
function encode({ kind, itself, stat, path }: Packable): string {
  return `${CODES[kind]}${itself === true ? 1 : 0}${stat === undefined ? '' : stat.mode.toString(8)}${path}\0`;
}

/** What `steps` wrote. */
export function* readSteps(from: RingMemory): Generator<Packable, void, undefined> {
  const reader = new RingReader(from);
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
