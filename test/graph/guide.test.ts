import assert from 'node:assert/strict';
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fromText, toText } from '../../src/base/bytes.ts';
import { checkUpper } from '../../src/diff/upper.ts';
import { walkDifferences } from '../../src/diff/walk.ts';
import {
  isStorageError,
  type LayerId,
  openDriver,
  type RawMount,
  type StorageDriver,
  upperChanges,
  writeUpperdir,
} from '../../src/index.ts';
import { lsetxattr } from '../../src/linux/xattr.ts';
import { overlay, tmpfs } from '../diff/overlay.ts';
import { filesystem } from '../kit/filesystems.ts';
import { need } from '../kit/require.ts';

// The upper guides: what it does not lead to is not looked at. A file that says its data are below, where there are none
// (metacopy), cannot even be looked at: the kernel refuses it to whoever comes by.

const b = fromText;
const DIRECTORIES = 2000;

/** A tree of `DIRECTORIES` directories, each with a file. */
function makeTree(root: string): void {
  mkdirSync(`${root}/t`, { recursive: true });
  for (let i = 0; i < DIRECTORIES; i++) {
    mkdirSync(`${root}/t/d${i}`);
    writeFileSync(`${root}/t/d${i}/file`, `${i}`);
  }
}

/** From now on nobody can look at `/t/d0/mine` and `/t/d7/mine` through an overlay. */
function layMines(root: string): void {
  for (const i of [0, 7]) {
    writeFileSync(`${root}/t/d${i}/mine`, 'mine');
    lsetxattr(b(`${root}/t/d${i}/mine`), b('trusted.overlay.metacopy'), Buffer.alloc(0));
  }
}

/** `t/d7/file` is changed, `t/d8/new` is there. */
function change(root: string): void {
  appendFileSync(`${root}/t/d7/file`, 'more');
  writeFileSync(`${root}/t/d8/new`, 'new');
}

const CHANGES = ['modify /t/d7/file', 'add /t/d8/new'];

async function listed(changes: AsyncIterable<{ readonly kind: string; readonly path: never }>): Promise<string[]> {
  const lines: string[] = [];
  for await (const { kind, path } of changes) lines.push(`${kind} ${toText(path)}`);
  return lines;
}

async function size(chunks: AsyncIterable<Uint8Array>): Promise<number> {
  let bytes = 0;
  for await (const chunk of chunks) bytes += chunk.length;
  return bytes;
}

function hitsMine(error: unknown): boolean {
  return isStorageError(error) && /the kernel refuses .*mine|mine.*the kernel refuses/.test(error.message);
}

test('walkDifferences() with a guide looks at a handful of names of a large tree', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const base = `${dir.path}/base`;
  makeTree(base);
  using layer = overlay(`${dir.path}/layer`, [base]);
  change(layer.merged);
  const upper = b(layer.upper);
  const { listings } = checkUpper(b(base), { upper, style: 'overlay', noIndex: true });
  const looks = (options: object): number => {
    let count = 0;
    const steps = [...walkDifferences(b(layer.merged), b(base), { ...options, upper, check: () => void count++ })];
    const changes = steps.filter(({ kind }) => kind !== 'carried').map(({ kind, path }) => `${kind} ${toText(path)}`);
    assert.deepEqual(changes, CHANGES);
    return count;
  };
  assert.ok(looks({ guide: 'overlay' }) <= 5);
  assert.ok(looks({ guide: 'overlay', listings }) <= 5);
  assert.ok(looks({}) >= 2 * DIRECTORIES);
});

for (const threads of [1, 2]) {
  test(`changes(), diff() and transfer() of a driver of ${threads} threads look only at what the upper leads to`, async (t) => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 512);
    await using driver = await openDriver({ root: disk.path, driver: 'overlay2', threads });
    const [base, other, id, copy] = ['base', 'other', 'work', 'copy'] as string[] as [
      LayerId,
      LayerId,
      LayerId,
      LayerId,
    ];
    for (const one of [base, other]) await driver.create(one, { writable: true });
    {
      await using mounted = await driver.mount(base);
      makeTree(toText(mounted.path));
    }
    for (const one of [id, copy]) await driver.create(one, { parent: base, writable: true });
    await edited(driver, id, change);
    await edited(driver, base, layMines);
    assert.deepEqual(await listed(driver.changes(id, base, { rendering: 'core' }) as never), CHANGES);
    assert.deepEqual(
      await listed(driver.changes(id, base, { rendering: 'core', renames: 'collapse' }) as never),
      CHANGES,
    );
    const bytes = await size(driver.diff(id, base));
    assert.ok(bytes > 1024 && bytes < 10_240, `a tar of ${bytes} bytes`);
    await driver.transfer(id, copy);
    assert.deepEqual(await listed(driver.changes(copy, base, { rendering: 'core' }) as never), CHANGES);
    // Compared with another tree, the whole of it is looked at.
    await assert.rejects(listed(driver.changes(id, other) as never), hitsMine);
    await assert.rejects(size(driver.diff(id, other)), hitsMine);
  });
}

async function edited(driver: StorageDriver, id: LayerId, task: (root: string) => void): Promise<void> {
  await using mounted = await driver.mount(id);
  task(toText(mounted.path));
}

test('upperChanges() and writeUpperdir() look only at what the upper leads to', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const [base, more] = [`${dir.path}/base`, `${dir.path}/more`];
  makeTree(base);
  mkdirSync(more);
  let places: string;
  {
    using layer = overlay(`${dir.path}/layer`, [more, base]);
    change(layer.merged);
    places = `upperdir=${layer.upper},workdir=${dir.path}/layer/work`;
  }
  layMines(base);
  const raw = (...options: readonly string[]): readonly RawMount[] => [
    { type: 'overlay', source: b('overlay'), options: ['index=off', ...options].map(b) },
  ];
  const lowers = `lowerdir=${more}:${base}`;
  const [below, above] = [raw(lowers), raw(lowers, ...places.split(','))];
  assert.deepEqual(await listed(upperChanges(below, above) as never), CHANGES);
  assert.ok((await size(writeUpperdir(below, above))) < 10_240);
  await assert.rejects(listed(upperChanges(below, above, { walk: true }) as never), hitsMine);
  await assert.rejects(size(writeUpperdir(below, above, { walk: true })), hitsMine);
});
