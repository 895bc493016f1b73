import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import { isStorageError } from '../../src/base/errors.ts';
import { Pool } from '../../src/base/pool.ts';
import { abortRing, RingReader, RingWriter, ringMemory } from '../../src/base/ring.ts';

const ENTRY = new URL('pool-thread.ts', import.meta.url);
const canceled = (error: unknown): boolean => isStorageError(error, 'canceled');

const shape = fc.record({
  slots: fc.integer({ min: 1, max: 5 }),
  slotBytes: fc.integer({ min: 1, max: 64 }),
  sizes: fc.array(fc.nat({ max: 200 }), { maxLength: 20 }),
});

function bytes(sizes: readonly number[]): Buffer[] {
  let next = 0;
  return sizes.map((size) => Buffer.from(Array.from({ length: size }, () => next++ & 0xff)));
}

test('what goes into a ring comes out: from a thread to the main thread, and back to a thread', async () => {
  await using pool = new Pool(ENTRY, 2);
  await fc.assert(
    fc.asyncProperty(shape, async ({ slots, slotBytes, sizes }) => {
      const [up, down] = [ringMemory({ slots, slotBytes }), ringMemory({ slots, slotBytes })];
      const jobs = [
        { name: 'send', request: { to: up, sizes } },
        { name: 'receive', request: { from: down } },
      ];
      const running = pool.runTogether(jobs);
      const writer = new RingWriter(down);
      const seen: Uint8Array[] = [];
      for await (const chunk of new RingReader(up).stream()) {
        assert.ok(chunk.length > 0 && chunk.length <= slotBytes);
        seen.push(chunk);
        await writer.writeAsync(chunk);
      }
      writer.end();
      const total = sizes.reduce((a, b) => a + b, 0);
      assert.deepEqual(Buffer.concat(seen), Buffer.concat(bytes(sizes)));
      assert.deepEqual((await running)[1], { bytes: total, right: true });
    }),
    { numRuns: 60 },
  );
});

test('a writer waits while no slot is free, a reader while none is filled', async () => {
  const memory = ringMemory({ slots: 2, slotBytes: 4 });
  const [writer, reader] = [new RingWriter(memory), new RingReader(memory)];
  let wrote = 0;
  const writing = (async () => {
    for (const chunk of bytes([4, 4, 4])) {
      await writer.writeAsync(chunk);
      wrote++;
    }
    writer.end();
  })();
  await sleep(20);
  assert.equal(wrote, 2);
  assert.deepEqual([...((await reader.nextAsync()) ?? [])], [0, 1, 2, 3]);
  reader.release();
  await writing;
  const rest: number[] = [];
  for await (const chunk of reader.stream()) rest.push(...chunk);
  assert.deepEqual(rest, [4, 5, 6, 7, 8, 9, 10, 11]);
  assert.equal(await reader.nextAsync(), undefined, 'the end stays the end');
});

test('abortRing() throws both sides out, also those who wait, and in any thread', async () => {
  await using pool = new Pool(ENTRY, 2);
  for (const name of ['send', 'receive']) {
    const memory = ringMemory({ slots: 1, slotBytes: 8 });
    const running = pool.run({ name, request: { to: memory, from: memory, sizes: [100] } });
    await sleep(30);
    abortRing(memory);
    await assert.rejects(running, canceled);
  }
  const memory = ringMemory({ slots: 1, slotBytes: 8 });
  const reading = assert.rejects(new RingReader(memory).nextAsync(), canceled);
  await sleep(5);
  abortRing(memory);
  await reading;
  assert.throws(() => new RingWriter(memory).reserve(), canceled);
  await assert.rejects(new RingWriter(memory).writeAsync(Buffer.from('x')), canceled);
  abortRing(memory);
});

test('abortRing() after the end still ends a reader that has not read all', () => {
  const memory = ringMemory({ slots: 2, slotBytes: 8 });
  const writer = new RingWriter(memory);
  writer.write(Buffer.from('abc'));
  writer.end();
  abortRing(memory);
  assert.throws(() => new RingReader(memory).next(), canceled);
});

test('stream() that is left early ends its writer', async () => {
  await using pool = new Pool(ENTRY, 1);
  const memory = ringMemory({ slots: 1, slotBytes: 8 });
  const running = pool.run({ name: 'send', request: { to: memory, sizes: [1000] } });
  for await (const _ of new RingReader(memory).stream()) break;
  await assert.rejects(running, canceled);
});

test('a tapped ring gives all to both readers, and a writer waits for the slower one', async () => {
  await fc.assert(
    fc.asyncProperty(shape, fc.boolean(), async ({ slots, slotBytes, sizes }, tapFirst) => {
      const memory = ringMemory({ slots, slotBytes, tapped: true });
      const writer = new RingWriter(memory);
      const writing = (async () => {
        for (const chunk of bytes(sizes)) await writer.writeAsync(chunk);
        writer.end();
      })();
      const read = async (reader: RingReader, pauses: boolean): Promise<Buffer> => {
        const seen: Uint8Array[] = [];
        for (let view = await reader.nextAsync(); view !== undefined; view = await reader.nextAsync()) {
          if (pauses) await sleep(0);
          seen.push(Buffer.from(view));
          reader.release();
        }
        return Buffer.concat(seen);
      };
      const all = Buffer.concat(bytes(sizes));
      const both = [read(new RingReader(memory), tapFirst), read(new RingReader(memory, 'tap'), !tapFirst)];
      for (const seen of await Promise.all(both)) assert.deepEqual(seen, all);
      await writing;
    }),
    { numRuns: 60 },
  );
});
