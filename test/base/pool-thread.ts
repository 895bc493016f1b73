// The entry module of the threads that pool.test.ts and ring.test.ts start.
import { writeFileSync } from 'node:fs';
import { type JobContext, type JobTable, serve } from '../../src/base/pool.ts';
import { type RingMemory, RingReader, RingWriter } from '../../src/base/ring.ts';

const wait = (ms: number): void => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
let served = 0;

const TABLE: JobTable = {
  /** How many jobs this thread has served before, after some time. */
  count(ms: number): number {
    wait(ms);
    return served++;
  },
  now: (): number => Date.now(),
  surroundings: (): unknown => ({ env: { ...process.env }, flags: process.execArgv }),
  /** Goes on until it is given up. */
  forever(_: null, context: JobContext): void {
    for (let i = 1; ; i++) {
      context.check();
      context.done(i);
      wait(2);
    }
  },
  fail(message: string): void {
    throw new RangeError(message);
  },
  write: (path: string): void => writeFileSync(path, 'x'),
  exit: (): void => process.exit(7),
  failLater(ms: number): void {
    setTimeout(() => {
      throw new Error('later');
    }, ms);
  },
  unclonable: (): unknown => () => {},
  send({ to, sizes }: { to: RingMemory; sizes: readonly number[] }): void {
    const writer = new RingWriter(to);
    let next = 0;
    for (const size of sizes) writer.write(Uint8Array.from({ length: size }, () => next++ & 0xff));
    writer.end();
  },
  /** How many bytes came, and whether they were those of `send`. */
  receive({ from }: { from: RingMemory }): { bytes: number; right: boolean } {
    const reader = new RingReader(from);
    let bytes = 0;
    let right = true;
    for (let view = reader.next(); view !== undefined; view = reader.next()) {
      for (const byte of view) if (byte !== (bytes++ & 0xff)) right = false;
      reader.release();
    }
    return { bytes, right };
  },
};
serve(TABLE);
