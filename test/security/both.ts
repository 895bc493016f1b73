import assert from 'node:assert/strict';
import {
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { after, before, test } from 'node:test';
import { type ByteString, fromText, quote, toBytes, toText } from '../../src/base/bytes.ts';
import { inodeKey, isFile, typeOf } from '../../src/fs/stat.ts';
import { walkTree } from '../../src/fs/walk.ts';
import { xattrsOf } from '../../src/fs/xattrs.ts';
import { isStorageError, type LoadedImage, type Store } from '../../src/index.ts';
import { AT_FDCWD, lstatat, readlinkat, type Stat } from '../../src/linux/inode.ts';
import { ociImage, type Packed } from '../kit/layer-builder.ts';
import { need } from '../kit/require.ts';
import { openStores, type Stores } from '../kit/stores.ts';
import { dumpTree } from '../kit/tree-dump.ts';

/** What a test asks of both drivers at once. Each question ends with the canary unharmed. */
export interface Both {
  /** The tmpfs that both stores and the canary are on. */
  readonly path: string;
  /** A directory outside every layer, with files that a hostile layer would like to change. */
  readonly canary: string;
  readonly stores: readonly Store[];
  /** The tree that these layers (bottom first) make, the same with every driver, as `sketch` draws it. */
  tree(...layers: readonly (Buffer | Packed)[]): Promise<string[]>;
  /** As `tree`; what is said of each image as well. */
  loaded(
    ...layers: readonly (Buffer | Packed)[]
  ): Promise<{ readonly tree: string[]; readonly notes: readonly string[] }>;
  /** Every driver refuses the image with `corrupt` and a text like `pattern`, and keeps nothing of it. */
  refuses(pattern: RegExp, ...layers: readonly (Buffer | Packed)[]): Promise<void>;
  /** Loads into every store, gives each to `use`, removes it again. */
  each(layers: readonly (Buffer | Packed)[], use: (store: Store, image: LoadedImage) => Promise<void>): Promise<void>;
}

/** Makes `test` for a file of tests on one pair of stores. */
export function onBothDrivers(): (title: string, body: (both: Both) => Promise<void>) => void {
  let stores: Stores | undefined;
  before(async () => {
    if (process.getuid?.() === 0) stores = await openStores();
  });
  after(() => stores?.[Symbol.asyncDispose]());
  return (title, body) => {
    test(title, async (t) => {
      if (!need(t, 'root', 'mount')) return;
      assert.ok(stores !== undefined);
      await body(bothOf(stores));
    });
  };
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

function bothOf({ path, each: stores }: Stores): Both {
  const canary = `${path}/canary`;
  if (!existsSync(canary)) makeCanary(canary);
  const outside = (): string[] => [...dumpCanary(canary), ...readdirSync(path).sort()];
  const before = outside();
  const each: Both['each'] = async (layers, use) => {
    for (const store of stores) {
      const [image] = await store.images.load(once(ociImage(layers)));
      assert.ok(image !== undefined);
      try {
        await use(store, image);
        assert.deepEqual(outside(), before, 'something outside the layer was touched');
      } finally {
        await store.images.remove(image.id, { force: true });
      }
      assert.deepEqual(outside(), before, 'something outside the layer was touched by its removal');
    }
  };
  const loaded: Both['loaded'] = async (...layers) => {
    const seen: { driver: string; dump: string[]; tree: string[]; notes: readonly string[] }[] = [];
    await each(layers, async (store, image) => {
      await using view = await store.layers.view(image.id);
      const root = toText(view.path);
      assert.deepEqual(await store.upkeep.check({ deep: true }), []);
      seen.push({ driver: store.driver.name, dump: dumpTree(root), tree: sketch(root), notes: image.notes });
    });
    const [first, ...others] = seen;
    assert.ok(first !== undefined);
    for (const other of others) {
      assert.deepEqual(other.dump, first.dump, `${other.driver} shows another tree than ${first.driver}`);
      assert.deepEqual(other.notes, first.notes);
    }
    return first;
  };
  return {
    path,
    canary,
    stores,
    each,
    loaded,
    tree: async (...layers) => (await loaded(...layers)).tree,
    async refuses(pattern, ...layers) {
      for (const store of stores) {
        const error = await store.images.load(once(ociImage(layers))).then(
          async ([image]) => {
            if (image !== undefined) await store.images.remove(image.id, { force: true });
            assert.fail(`${store.driver.name} takes what ${pattern} should refuse`);
          },
          (refused: unknown) => refused,
        );
        assert.ok(isStorageError(error, 'corrupt'), String(error));
        assert.match(error.message, pattern);
        assert.deepEqual(await store.layers.stored(), []);
        assert.deepEqual(await store.upkeep.check(), []);
        assert.deepEqual(outside(), before, 'something outside the layer was touched');
      }
    },
  };
}

function makeCanary(canary: string): void {
  mkdirSync(canary, { mode: 0o750 });
  writeFileSync(`${canary}/file`, 'unharmed', { mode: 0o640 });
  chownSync(`${canary}/file`, 7, 8);
  mkdirSync(`${canary}/directory`);
  writeFileSync(`${canary}/directory/file`, 'unharmed');
  symlinkSync('file', `${canary}/link`);
  for (const name of ['file', 'directory', '.']) utimesSync(`${canary}/${name}`, 1_000_000, 1_000_000);
}

/** Also link counts and the times that only the kernel sets: nothing happens to an inode unseen. */
function dumpCanary(canary: string): string[] {
  const names = ['', '/file', '/directory', '/directory/file', '/link'];
  const inodes = names.map((name) => {
    const { ctimeNs, nlink } = lstatSync(canary + name, { bigint: true });
    return `${name} ${nlink} ${ctimeNs}`;
  });
  return [...dumpTree(canary), ...inodes];
}

/**
 * One line a path, sorted: `a/`, `a/f "content"`, `l -> target`, `d device 1,3`. Mode and owner only where they are
 * not what is usual (0755 for directories, 0644, root), times where they are not 0; links name the first of them.
 */
export function sketch(root: string): string[] {
  const first = new Map<string, ByteString>();
  const top = fromText(root);
  const lines = [line(AT_FDCWD, top, '.' as ByteString, lstatat(AT_FDCWD, top) as Stat, top)];
  for (const { path, dirFd, name, stat } of walkTree(fromText(root))) {
    const known = stat.nlink > 1 && typeOf(stat.mode) !== 'directory' ? first.get(inodeKey(stat)) : undefined;
    const shown = path.slice(1) as ByteString;
    if (known === undefined) first.set(inodeKey(stat), shown);
    lines.push(
      known === undefined ? line(dirFd, name, shown, stat, `${top}${path}` as ByteString) : `${shown} = ${known}`,
    );
  }
  return lines.map((text) => toText(text as ByteString));
}

function line(dirFd: number, name: ByteString, path: ByteString, stat: Stat, whole: ByteString): string {
  const type = typeOf(stat.mode);
  const usual = type === 'directory' ? 0o755 : type === 'symlink' ? 0o777 : 0o644;
  const parts = [type === 'directory' ? `${path}/` : path];
  if (isFile(stat)) parts.push(content(whole, stat));
  else if (type === 'symlink') parts.push(`-> ${readlinkat(dirFd, name)}`);
  else if (type !== 'directory') parts.push(type.replace('character-', ''));
  if (type.endsWith('device')) parts.push(`${stat.rdevMajor},${stat.rdevMinor}`);
  if ((stat.mode & 0o7777) !== usual) parts.push((stat.mode & 0o7777).toString(8));
  if (stat.uid !== 0 || stat.gid !== 0) parts.push(`${stat.uid}:${stat.gid}`);
  // The root's times and those of overlay's own are nobody's business.
  if (path !== '.' && stat.mtimeNs !== 0n) parts.push(`@${stat.mtimeNs}`);
  for (const [key, value] of [...xattrsOf(whole)].sort())
    parts.push(`${key}=${quote(value.toString('latin1') as ByteString)}`);
  return parts.join(' ');
}

function content(path: ByteString, stat: Stat): string {
  if (stat.sizeBytes > 60) return `(${stat.sizeBytes})`;
  return `"${readText(path)}"`;
}

function readText(path: ByteString): string {
  return readFileSync(toBytes(path), 'latin1');
}
