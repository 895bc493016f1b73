// A process of its own for the fault tests: `node store-child.ts WHAT ROOT …`. Says `ready` when it begins its work.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isStorageError, openStore, type Store, toText } from '../../src/index.ts';

const [what, root = '', ...rest] = process.argv.slice(2);
const store: Store = await openStore({ root, threads: 2 });
console.log('ready');

/** What a busy fellow may cost one: never more than this. */
async function meanwhile(task: () => Promise<unknown>): Promise<void> {
  try {
    await task();
  } catch (error) {
    if (isStorageError(error) && ['busy', 'not-found', 'already-exists'].includes(error.code)) return;
    if (isStorageError(error, 'failed-precondition') && /while it was read/.test(error.message)) return; // a commit
    throw error;
  }
}

switch (what) {
  /** Loads each of the archives. */
  case 'load':
    for (const archive of rest) console.log((await store.images.load(archive)).map(({ id }) => id).join());
    break;
  /** Commits the writable layer named first under the name given second. */
  case 'commit':
    await (await store.layers.get(rest[0] as string)).commit(rest[1], { createdAt: '2024-01-01T00:00:00Z' });
    break;
  case 'remove':
    await store.images.remove(rest[0] as string, { force: true });
    break;
  /** A writable layer: made, mounted, written, let go of, removed; for ever. */
  case 'churn':
    for (;;) {
      const work = await store.layers.create(rest[0]);
      {
        await using mounted = await work.mount();
        writeFileSync(join(toText(mounted.path), 'file'), 'x'.repeat(10_000));
      }
      await work.remove();
      await sleep(30);
    }
  /** Mounts the writable layer of that name, and stays. */
  case 'hold': {
    await (await store.layers.get(rest[0] as string)).mount();
    console.log('mounted');
    setInterval(() => {}, 1000);
    await new Promise(() => {});
    break;
  }
  /** Looks at the image of that name, and stays. */
  case 'view':
    await store.layers.view(rest[0] as string);
    console.log('mounted');
    setInterval(() => {}, 1000);
    await new Promise(() => {});
    break;
  /** Anything, in any order, on the archives given, until killed or until so many ms are over. */
  case 'riot': {
    const [ms, me, ...archives] = rest as [string, string, ...string[]];
    const end = Date.now() + Number(ms);
    const pick = <T>(from: readonly T[]): T | undefined => from[Math.floor(Math.random() * from.length)];
    const deeds: readonly (() => Promise<unknown>)[] = [
      () => store.images.load(pick(archives) as string),
      () => store.images.load(pick(archives) as string),
      async () =>
        store.layers.create(pick(await store.images.list()), { name: `${me}-${Math.floor(Math.random() * 6)}` }),
      async () => {
        const work = pick(await store.layers.list());
        if (work === undefined) return;
        await using mounted = await work.mount();
        writeFileSync(join(toText(mounted.path), `by-${me}`), `${Math.random()}`);
      },
      async () => pick(await store.layers.list())?.commit(`riot:${Math.floor(Math.random() * 4)}`),
      async () => pick(await store.layers.list())?.remove(),
      async () => {
        const image = pick(await store.images.list());
        if (image !== undefined) await store.images.remove(image.id, { force: true });
      },
      async () => {
        const image = pick(await store.images.list());
        if (image === undefined || image.diffIds.length === 0) return;
        await using _view = await store.layers.view(image);
      },
      () => store.upkeep.gc(),
    ];
    let done = 0;
    while (Date.now() < end) {
      await meanwhile(pick(deeds) as () => Promise<unknown>);
      done++;
    }
    console.log(done);
    break;
  }
  default:
    throw new TypeError(`what is ${what}?`);
}
await store[Symbol.asyncDispose]();
