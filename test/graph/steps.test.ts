import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { openDriver } from '../../src/index.ts';
import { applyEdits, edits, making } from '../kit/edits.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';

// A layer is walked by one thread and packed by another where there are two: nobody can tell by the tar.

for (const name of DRIVERS) {
  test(`diff() gives the same bytes by one thread and by two: ${name}`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 512);
    await using one = await openDriver({ root: disk.path, driver: name, threads: 1 });
    await using two = await openDriver({ root: disk.path, driver: name, threads: 2 });
    const tar = async (driver: typeof one, id: never, parent: never): Promise<Buffer | string> => {
      const chunks: Uint8Array[] = [];
      try {
        for await (const chunk of driver.diff(id, parent)) chunks.push(chunk);
        return Buffer.concat(chunks);
      } catch (error) {
        return String(error);
      }
    };
    let run = 0;
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(making(12), edits(12), async (below, above) => {
        run++;
        const [base, id] = [`base${run}`, `work${run}`] as never[] as [never, never];
        await one.create(base, { writable: true });
        {
          await using mounted = await one.mount(base);
          applyEdits(Buffer.from(mounted.path, 'latin1').toString(), below);
        }
        await one.create(id, { parent: base, writable: true });
        {
          await using mounted = await one.mount(id);
          applyEdits(Buffer.from(mounted.path, 'latin1').toString(), above);
        }
        const [first, second] = [await tar(one, id, base), await tar(two, id, base)];
        if (typeof first === 'string') refused++;
        assert.deepEqual(second, first);
        await one.remove(id);
        await one.remove(base);
      }),
      { numRuns: 40 },
    );
    assert.ok(refused < run / 4, `${refused} of ${run} refused`);
  });
}

test('diff() by two threads ends where its reader stops or its signal aborts, and works again', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 512);
  await using driver = await openDriver({ root: disk.path, driver: 'overlay2', threads: 2 });
  const [base, id] = ['base', 'work'] as never[] as [never, never];
  await driver.create(base, { writable: true });
  await driver.create(id, { parent: base, writable: true });
  {
    await using mounted = await driver.mount(id);
    const many = Array.from({ length: 3000 }, (_, i) => ({ do: 'create' as const, path: `file${i}`, seed: i }));
    applyEdits(mounted.path, many);
  }
  const whole = await sizeOf(driver.diff(id, base));
  for await (const _ of driver.diff(id, base)) break;
  const giving = new AbortController();
  const reason = new Error('enough');
  await assert.rejects(async () => {
    for await (const _ of driver.diff(id, base, { signal: giving.signal })) giving.abort(reason);
  }, reason);
  const bytesDone: number[] = [];
  assert.equal(await sizeOf(driver.diff(id, base, { onBytes: (bytes) => bytesDone.push(bytes) })), whole);
  assert.ok((bytesDone.at(-1) ?? 0) >= whole - 1024, `told of ${bytesDone.at(-1)} bytes of ${whole}`);
});

async function sizeOf(chunks: AsyncIterable<Uint8Array>): Promise<number> {
  let size = 0;
  for await (const chunk of chunks) size += chunk.length;
  return size;
}
