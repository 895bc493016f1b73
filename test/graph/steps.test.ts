import assert from 'node:assert/strict';
import { existsSync, linkSync, mkdirSync, readdirSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText } from '../../src/base/bytes.ts';
import {
  type DriverName,
  isStorageError,
  type LayerId,
  type LayerMode,
  openDriver,
  type StorageDriver,
  toText,
} from '../../src/index.ts';
import { lgetxattr, lsetxattr } from '../../src/linux/xattr.ts';
import { applyEdits, type Edit, edits, making } from '../kit/edits.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';
import { DRIVERS } from '../kit/stores.ts';
import { moves, strays } from '../law/overlay-scripts.ts';

// A layer is walked by one thread and packed by another where there are two: nobody can tell by the tar.

/** Drivers, and what their layers are written under. */
const WRITTEN: readonly { readonly name: DriverName; readonly mode?: LayerMode }[] = [
  ...DRIVERS.map((name) => ({ name })),
  { name: 'overlay2', mode: { redirect: 'on', metacopy: 'off' } },
  { name: 'overlay2', mode: { redirect: 'on', metacopy: 'on' } },
];

/** Two layers of three; the last now and then moves a directory with a file that has a name elsewhere. */
const layers = fc
  .tuple(making(12), edits(6), moves(4), strays)
  .map(([first, second, last, { linked, moved }]): Edit[][] => [[...first, ...linked], second, [...moved, ...last]]);

/** One that has to be walked. */
const STRAYED: Edit[][] = [
  [
    { do: 'mkdir', path: 'a' },
    { do: 'create', path: 'a/file', seed: 3 },
    { do: 'link', path: 'a/file', to: 'name' },
  ],
  [],
  [{ do: 'rename', path: 'a', to: 'c' }],
];

/** Where the base, and the layer itself, have a file with its metadata alone if they are written so; both are looked at. */
const METACOPIED: Edit[][] = [
  [
    { do: 'create', path: 'file', seed: 3 },
    { do: 'create', path: 'other', seed: 3 },
  ],
  [{ do: 'chmod', path: 'file', mode: 0o600 }],
  [
    { do: 'rewrite', path: 'file' },
    { do: 'chmod', path: 'other', mode: 0o600 },
  ],
];

for (const { name, mode } of WRITTEN) {
  const how = mode === undefined ? name : `${name}, redirect_dir=${mode.redirect}, metacopy=${mode.metacopy}`;
  test(`diff() gives the same bytes by one thread and by two: ${how}`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 512);
    await using one = await openDriver({ root: disk.path, driver: name, threads: 1 });
    await using two = await openDriver({ root: disk.path, driver: name, threads: 2 });
    const written = mode === undefined ? {} : { mode };
    // None of these layers may be refused: they hold no sockets, and are read as they were written.
    const tar = async (driver: typeof one, id: LayerId, parent: LayerId): Promise<Buffer> =>
      Buffer.concat(await Array.fromAsync(driver.diff(id, parent, written)));
    const count = { run: 0, walked: 0, moved: 0, metacopied: 0 };
    await fc.assert(
      fc.asyncProperty(layers, async (all) => {
        count.run++;
        const ids: LayerId[] = [];
        for (const [i, steps] of all.entries()) {
          const [parent, id] = [ids.at(-1), `layer${count.run}.${i}` as string as LayerId];
          await one.create(id, { ...(parent !== undefined && { parent }), writable: true });
          ids.push(id);
          // All in one mode: what lies below is read as it was written, too.
          await using mounted = await one.mount(id, written);
          applyEdits(toText(mounted.path), steps);
        }
        const [base, id] = ids.slice(-2) as [LayerId, LayerId];
        assert.deepEqual(await tar(two, id, base), await tar(one, id, base));
        if (await hasMetacopy(one, base)) count.metacopied++;
        if ((await one.explain(id, base, written)).includes('has names in places')) count.walked++;
        for await (const { kind } of one.changes(id, base, { ...written, renames: 'collapse' })) {
          if (kind === 'rename') count.moved++;
        }
        for (const layer of ids.toReversed()) await one.remove(layer);
      }),
      { numRuns: 40, examples: [[STRAYED], [METACOPIED]] },
    );
    t.diagnostic(JSON.stringify(count));
    if (mode?.redirect === 'on') assert.ok(count.walked > 0 && count.moved > 0);
    assert.equal(count.metacopied > 0, mode?.metacopy === 'on');
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

/** Whether the layer's `file` has its data in a layer below. */
async function hasMetacopy(driver: StorageDriver, id: LayerId): Promise<boolean> {
  const path = join((await driver.metadata(id)).upper, 'file');
  return existsSync(path) && lgetxattr(fromText(path), fromText('trusted.overlay.metacopy')) !== undefined;
}

async function sizeOf(chunks: AsyncIterable<Uint8Array>): Promise<number> {
  let size = 0;
  for await (const chunk of chunks) size += chunk.length;
  return size;
}

test('diff() by two threads fails as the walk does, however soon that is', async (t) => {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 64);
  await using driver = await openDriver({ root: disk.path, driver: 'overlay2', threads: 2 });
  const [base, id] = ['base', 'work'] as never[] as [never, never];
  const mode = { redirect: 'on', metacopy: 'on' } as const;
  await driver.create(base, { writable: true });
  {
    await using mounted = await driver.mount(base);
    mkdirSync(join(toText(mounted.path), 'a'));
    // Names that both threads count.
    for (let i = 0; i < 200; i++) {
      writeFileSync(join(toText(mounted.path), `a/f${i}`), 'x');
      linkSync(join(toText(mounted.path), `a/f${i}`), join(toText(mounted.path), `name${i}`));
    }
  }
  await driver.create(id, { parent: base, writable: true });
  {
    await using mounted = await driver.mount(id, { mode });
    renameSync(join(toText(mounted.path), 'a'), join(toText(mounted.path), 'c'));
  }
  const upper = toText((await driver.content(id)).root);
  const whole = await sizeOf(driver.diff(id, base, { mode }));
  assert.ok(whole > 200 * 512);
  // A file with its metadata alone, whose data nobody has.
  writeFileSync(join(upper, 'zz'), '');
  truncateSync(join(upper, 'zz'), 100);
  lsetxattr(fromText(join(upper, 'zz')), 'trusted.overlay.metacopy' as ByteString, new Uint8Array());
  const open = readdirSync('/proc/self/fd').length;
  // The threads are ready, and go different ways every time.
  for (let i = 0; i < 60; i++) {
    await assert.rejects(sizeOf(driver.diff(id, base, { mode })), (error) => {
      assert.ok(isStorageError(error, 'corrupt'), String(error));
      assert.match(error.message, /"\/zz": the layer has its metadata alone/);
      return true;
    });
  }
  rmSync(join(upper, 'zz'));
  assert.equal(await sizeOf(driver.diff(id, base, { mode })), whole);
  assert.equal(readdirSync('/proc/self/fd').length, open);
});
