import assert from 'node:assert/strict';
import { closeSync, existsSync, openSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { before, type TestContext, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import {
  type DriverName,
  isStorageError,
  openStore,
  type Progress,
  StorageError,
  type Store,
  toText,
} from '../../src/index.ts';
import { filesystem } from '../kit/filesystems.ts';
import { bulk, dockerTar, type ImageSpec, idOf, ociTar } from '../kit/images.ts';
import { directory, file, layer, ociImage, type Packed } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { rootDump } from '../kit/root-dump.ts';
import { DRIVERS } from '../kit/stores.ts';
import { collect } from '../transport/archives.ts';
import { checkSoon, inTime } from './in-time.ts';
import { type Met, meet, type Plan } from './met.ts';
import { leavesNoThread } from './nothing-left.ts';
import { leavesNothing } from './unharmed.ts';

const APP: ImageSpec = {
  layers: [
    // Much to settle, and to merge.
    layer(...Array.from({ length: 100 }, (_, i) => file(`implied-${i}/file`, 'x'))),
    bulk(1, 200, 5000),
    bulk(2, 6, 400_000),
    // Kept as it came.
    layer(directory('d/'), file('d/f', Buffer.alloc(300_000, 'first ')), file('d/f', Buffer.alloc(100_000, 'second '))),
  ],
  names: ['docker.io/library/app:1'],
  compress: 'gzip',
};
/** Large enough for a thread that hashes it. */
const LARGE: ImageSpec = { layers: [bulk(5, 30, 400_000)], names: ['docker.io/library/large:1'], compress: 'gzip' };
const BASE: ImageSpec = {
  ...APP,
  names: ['docker.io/library/base:1'],
  layers: [...APP.layers.slice(3), bulk(4, 100, 25_000)],
};
const GZIP = 'application/vnd.oci.image.layer.v1.tar+gzip';

interface Deed {
  readonly does: (store: Store, path: string, options: { signal?: AbortSignal }) => Promise<unknown>;
  readonly takeBack: (store: Store, path: string) => Promise<unknown>;
}

const DEEDS = {
  load: {
    does: (store, path, options) => store.images.load(join(path, 'app.tar.gz'), options),
    takeBack: (store) => store.images.remove('app:1'),
  },
  'load a large layer': {
    does: (store, path, options) => store.images.load(join(path, 'large.tar.gz'), options),
    takeBack: (store) => store.images.remove('large:1'),
  },
  commit: {
    does: async (store, _, options) => (await store.layers.get('work')).commit('new:1', options),
    takeBack: (store) => store.images.remove('new:1'),
  },
  save: {
    does: async (store, path, options) => {
      const fd = openSync(join(path, 'out'), 'w');
      try {
        await store.images.saveTo(['base:1'], fd, options);
      } finally {
        closeSync(fd);
      }
    },
    takeBack: async (_, path) => rmSync(join(path, 'out')),
  },
  'save a stream': {
    does: (store, _, options) => collect(store.images.save(['base:1'], options)),
    takeBack: async () => {},
  },
  'save with gzip': {
    does: (store, _, options) => collect(store.images.save(['base:1'], { compress: 'gzip', ...options })),
    takeBack: async () => {},
  },
} as const satisfies Record<string, Deed>;

type Case = readonly [deed: keyof typeof DEEDS, job: Plan['job'], step: number, how: Plan['how']];

/** Where a thread ends. */
const ENDINGS: Readonly<Record<DriverName, readonly Case[]>> = {
  overlay2: [
    ['load', 'spool', 5, 'exit'],
    ['load', 'apply', 60, 'memory'],
    ['load', 'apply', 3, 'error'],
    ['load', 'settle', 2, 'exit'],
    ['load', 'sync', 1, 'exit'],
    ['load a large layer', 'hash', 3, 'exit'],
    ['load a large layer', 'inflate', 30, 'exit'],
    ['commit', 'pack', 40, 'memory'],
    ['commit', 'apply', 40, 'exit'],
    ['save', 'replay', 1, 'memory'],
    ['save a stream', 'replay', 1, 'exit'],
    ['save with gzip', 'helpGzip', 3, 'exit'],
  ],
  vfs: [
    ['load', 'inflate', 3, 'exit'],
    ['load', 'copy', 20, 'memory'],
    ['load', 'remove', 3, 'exit'],
  ],
};

/** Where the caller gives up: each phase takes far longer than a second, unless the abort is heeded. */
const ABORTS: Readonly<Record<DriverName, readonly Case[]>> = {
  overlay2: [
    ['load', 'spool', 3, 'slow'],
    ['load', 'apply', 5, 'slow'],
    ['load', 'settle', 20, 'slow'],
    ['load', 'keep', 2, 'slow'],
    ['load', 'sync', 1, 1500],
    ['load a large layer', 'hash', 3, 'slow'],
    ['commit', 'pack', 5, 'slow'],
    ['commit', 'sync', 1, 1500],
    ['save', 'replay', 1, 'slow'],
    ['save with gzip', 'helpGzip', 1, 'slow'],
  ],
  vfs: [
    ['load', 'inflate', 2, 'slow'],
    ['load', 'copy', 20, 'slow'],
    ['load', 'merge', 20, 'slow'],
  ],
};

/** What loads modules and starts libuv's own threads is not counted. */
before(async () => {
  if (process.getuid?.() !== 0) return;
  await using disk = await filesystem('tmpfs', 64);
  await using store = await openStore({ root: join(disk.path, 'store'), driver: 'vfs', threads: 2 });
  const work = await store.layers.create();
  await collect(store.images.save([await work.commit('new:1')], { compress: 'gzip' }));
});

for (const driver of DRIVERS) {
  test(`a job thread that ends, or runs out of memory, ends its command within a second with one clear error, and nothing is left (${driver})`, async (t) => {
    await eachCase(t, driver, ENDINGS[driver], async (deed, met, [, , , how]) => {
      const code = how === 'memory' ? 'resource-exhausted' : 'internal';
      try {
        await deed({});
      } catch (error) {
        if (!isStorageError(error, code) || !/^.*its thread ended.*$/.test(error.message)) throw error;
        return true;
      }
      // A thread that ends after its job may have had no other.
      assert.ok(met.isMet && how === 'error', 'it was not met');
      return false;
    });
  });

  test(`an abort in each phase ends the command with its reason within a second, and nothing is left (${driver})`, async (t) => {
    await eachCase(t, driver, ABORTS[driver], async (deed, met) => {
      const stop = new AbortController();
      // Also one that looks like what a job says that only gave up with another.
      const reason = new StorageError('canceled', 'enough');
      void met.there.then(() => stop.abort(reason));
      try {
        await deed({ signal: stop.signal });
      } catch (error) {
        if (error !== reason) throw error;
        return true;
      }
      assert.fail('the abort was not heeded');
    });
  });
}

/**
 * Does each deed in a store of its own threads, one of which does as the case says; `ends` answers whether that failed
 * as it should. It must have done so soon, with nothing left, and then work.
 */
async function eachCase(
  t: TestContext,
  driver: DriverName,
  cases: readonly Case[],
  ends: (deed: (options: { signal?: AbortSignal }) => Promise<unknown>, met: Met, which: Case) => Promise<boolean>,
): Promise<void> {
  if (!need(t, 'root', 'mount')) return;
  await using disk = await filesystem('tmpfs', 512);
  const { path } = disk;
  const root = join(path, 'store');
  writeFileSync(join(path, 'app.tar.gz'), gzipSync(ociTar(APP), { level: 1 }));
  writeFileSync(join(path, 'base.tar'), dockerTar(BASE));
  writeFileSync(join(path, 'large.tar.gz'), gzipSync(ociTar(LARGE), { level: 1 }));
  {
    await using store = await openStore({ root, driver, threads: 2 });
    await store.images.load(join(path, 'base.tar'));
    const work = await store.layers.create('base:1', { name: 'work' });
    await using mounted = await work.mount();
    for (let i = 0; i < 100; i++) writeFileSync(join(toText(mounted.path), `new-${i}`), Buffer.alloc(9000, i));
  }
  for (const which of cases) {
    const [name, job, step, how] = which;
    const { does, takeBack }: Deed = DEEDS[name];
    const once = async (): Promise<void> => {
      using met = meet({ job, step, how });
      await using store = await openStore({ root, threads: 2 });
      let metAt = 0;
      void met.there.then(() => {
        metAt = performance.now();
      });
      const deed = async (): Promise<void> => {
        const failed = await ends((options) => does(store, path, options), met, which);
        const took = performance.now() - metAt;
        if (!failed || name === 'save') await takeBack(store, path);
        assert.ok(metAt > 0, 'it was not met');
        checkSoon(took);
        throw new Error('ended');
      };
      await leavesNothing(store, deed, (error) => {
        if ((error as Error).message !== 'ended') throw error;
        return true;
      });
      met[Symbol.dispose]();
      await does(store, path, {});
      await takeBack(store, path);
      await store.upkeep.sweep({ wait: true });
    };
    await inTime(() => leavesNoThread(once)).catch((error: unknown) => {
      throw new Error(which.join(' '), { cause: error });
    });
  }
  await using store = await openStore({ root, threads: 2 });
  assert.deepEqual(await store.upkeep.check({ deep: true }), []);
}

test('an abort while another process writes the database is heeded, or comes too late: all or nothing', (t) =>
  inTime(async () => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 256);
    await using store = await openStore({ root: join(disk.path, 'store'), driver: 'overlay2', threads: 2 });
    const archive = join(disk.path, 'app.tar');
    writeFileSync(archive, ociTar(APP));
    let heeded = 0;
    for (const when of ['before', 'while', 'after'] as const) {
      const stop = new AbortController();
      const reason = { why: 'enough' };
      let abortedAt = 0;
      const other = new DatabaseSync(join(store.root, 'store.db'));
      /** The last word of the last step: what follows is the transaction. */
      const onProgress = ({ step, bytesDone }: Progress): void => {
        if (step !== 'settle' || bytesDone === 0) return;
        other.exec('BEGIN IMMEDIATE');
        const abort = (): void => {
          abortedAt = performance.now();
          stop.abort(reason);
        };
        if (when === 'before') abort();
        if (when === 'while') setTimeout(abort, 100);
        setTimeout(() => other.exec('ROLLBACK'), 300);
        if (when === 'after') setTimeout(abort, 320);
      };
      const load = async (): Promise<void> => {
        try {
          await store.images.load(archive, { signal: stop.signal, onProgress });
          assert.equal((await store.images.get('app:1')).id, idOf(APP));
          await store.images.remove('app:1');
        } catch (error) {
          if (error !== reason) throw error;
          heeded++;
          checkSoon(performance.now() - abortedAt);
        } finally {
          other.close();
        }
        throw new Error('ended');
      };
      await leavesNothing(store, load, (error) => (error as Error).message === 'ended', when);
    }
    assert.ok(heeded > 0);
  }));

test('an abort of a load that has made 200,000 files ends within a second; they are deleted after it', (t) =>
  inTime(async () => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 2048);
    const root = join(disk.path, 'store');
    const archive = join(disk.path, 'many.tar');
    writeFileSync(archive, ociTar({ layers: [1, 2].map((seed) => bulk(seed, 100_000, 1)), names: APP.names ?? [] }));
    await using store = await openStore({ root, driver: 'overlay2', threads: 2 });
    const stop = new AbortController();
    let abortedAt = Number.POSITIVE_INFINITY;
    const onProgress = ({ step }: Progress): void => {
      if (step !== 'settle' || stop.signal.aborted) return;
      abortedAt = performance.now();
      stop.abort();
    };
    await assert.rejects(store.images.load(archive, { signal: stop.signal, onProgress }), { name: 'AbortError' });
    checkSoon(performance.now() - abortedAt);
    assert.notDeepEqual(rootDump(root, { aside: true }), [], 'it was too little to be left for later');
    await store.upkeep.sweep({ wait: true });
    assert.deepEqual(rootDump(root, { aside: true }), []);
    assert.deepEqual(await store.upkeep.check({ deep: true }), []);
  }));

test('a full disk in the middle of several layers at once ends them all within a second with one error, and leaves nothing', (t) =>
  inTime(async () => {
    if (!need(t, 'root', 'mount', 'mkfs.ext4')) return;
    await using archives = await filesystem('tmpfs', 128);
    await using disk = await filesystem('ext4', 64);
    const root = join(disk.path, 'store');
    const archive = join(archives.path, 'big.tar');
    writeFileSync(
      archive,
      ociTar({ layers: [1, 2, 3, 4].map((seed) => bulk(seed, 1000, 20_000)), names: APP.names ?? [] }),
    );
    await leavesNoThread(async () => {
      await using store = await openStore({ root, driver: 'overlay2', threads: 4 });
      let fullAt = 0;
      let begun = 0;
      const watch = setInterval(() => {
        const { bfree, bsize } = statfsSync(disk.path);
        if (fullAt > 0 || bfree * bsize > 4 << 20) return; // ext4 keeps some for itself
        fullAt = performance.now();
        const layers = join(root, 'overlay2');
        begun = readdirSync(layers).filter((id) => {
          const tree = join(layers, id, 'diff');
          return existsSync(tree) && readdirSync(tree).length > 0;
        }).length;
      }, 5);
      const load = async (): Promise<void> => {
        try {
          await store.images.load(archive);
        } finally {
          clearInterval(watch);
          assert.ok(fullAt > 0, 'it was never full');
          checkSoon(performance.now() - fullAt);
        }
      };
      await leavesNothing(store, load, (error) => {
        if (!isStorageError(error, 'resource-exhausted')) throw error;
        assert.match(error.message, /^Cannot load layer \d of 4, sha256:\w+: cannot .*$/);
        return true;
      });
      assert.ok(begun > 1, `${begun} layers were being unpacked`);
      // Two of them have room.
      writeFileSync(
        archive,
        ociTar({ layers: [1, 2].map((seed) => bulk(seed, 1000, 20_000)), names: APP.names ?? [] }),
      );
      await store.images.load(archive);
      assert.deepEqual(await store.upkeep.check({ deep: true }), []);
    });
  }));

test('a corrupt layer among good ones ends them all within a second with one error that names it, and leaves nothing', (t) =>
  inTime(async () => {
    if (!need(t, 'root', 'mount')) return;
    await using disk = await filesystem('tmpfs', 256);
    const archive = join(disk.path, 'app.tar');
    const good = [1, 2, 3].map((seed) => bulk(seed, 200, 3000));
    const bad = bulk(4, 6, 3000);
    const packed = gzipSync(bad);
    const cut = packed.subarray(0, packed.length * 0.9);
    const lie = bulk(5, 6, 3000);
    const faults: readonly (readonly [string, Packed])[] = [
      ['gzip that is cut off', { tar: bad, blob: cut, mediaType: GZIP }],
      ['another content', { tar: bad, blob: lie }],
    ];
    for (const [what, fault] of faults) {
      await leavesNoThread(async () => {
        // The good ones would take many seconds; the bad one has few entries.
        using met = meet({ job: 'apply', step: 5, how: 'slow' });
        await using store = await openStore({ root: join(disk.path, 'store'), driver: 'overlay2', threads: 4 });
        writeFileSync(archive, ociImage([...good.slice(0, 2), fault, ...good.slice(2)]));
        await assert.rejects(store.images.load(archive)); // starts the threads
        const load = async (): Promise<void> => {
          const from = performance.now();
          try {
            await store.images.load(archive);
          } finally {
            assert.ok(met.isMet, `${what}: it was not met`);
            checkSoon(performance.now() - from, what);
          }
        };
        await leavesNothing(store, load, (error) => {
          if (!isStorageError(error, 'corrupt')) throw error;
          assert.match(error.message, /layer 3 of 4, sha256:\w+: .*$/, what);
          return true;
        });
        met[Symbol.dispose]();
        writeFileSync(archive, ociImage([...good.slice(0, 2), bad, ...good.slice(2)]));
        const [image] = await store.images.load(archive);
        assert.deepEqual(await store.upkeep.check({ deep: true }), []);
        await store.images.remove(image?.id ?? '');
        await store.upkeep.sweep({ wait: true });
      });
    }
  }));
