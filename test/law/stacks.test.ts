import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import { type ByteString, fromText, quote, toBytes } from '../../src/base/bytes.ts';
import { packTree } from '../../src/diff/pack.ts';
import type { WalkOptions } from '../../src/diff/types.ts';
import { checkUpper, whyNotUpper } from '../../src/diff/upper.ts';
import { walkChanges, walkDifferences } from '../../src/diff/walk.ts';
import { copyTree } from '../../src/fs/copy.ts';
import { isWhiteout } from '../../src/fs/stat.ts';
import { walkTree } from '../../src/fs/walk.ts';
import { CAPABILITY } from '../../src/fs/xattrs.ts';
import { isStorageError } from '../../src/index.ts';
import { AT_FDCWD, utimensat } from '../../src/linux/inode.ts';
import { lgetxattr, llistxattr, lsetxattr } from '../../src/linux/xattr.ts';
import { tmpfs } from '../diff/overlay.ts';
import { edits, making } from '../kit/edits.ts';
import { applyByGnuTar } from '../kit/gnu-apply.ts';
import { need } from '../kit/require.ts';
import { dumpTree } from '../kit/tree-dump.ts';
import { mounted, moves, type Places, play } from './overlay-scripts.ts';

// The law of upper.test.ts where layers lie elsewhere: their data in data-only lowers, or they themselves on another
// overlay. LAYERSTORE_LAW_FACTOR as there.

const b = fromText;
const SCRIPTS = 40 * Number(process.env['LAYERSTORE_LAW_FACTOR'] ?? 1);
const MODE = 'index=off,redirect_dir=on,metacopy=on';

const script = fc.record({
  layers: fc
    .tuple(making(14), fc.array(moves(6), { maxLength: 2, size: 'max' }), edits(14), moves(8))
    .map(([first, between, ...last]) => [first, ...between, last.flat()]),
  offline: fc.constant([]),
});

function mark(path: ByteString, name: string, value: string): void {
  lsetxattr(path, b(`trusted.overlay.${name}`), Buffer.from(value));
}

function inside(directory: string, path: ByteString): ByteString {
  return `${b(directory)}${path}` as ByteString;
}

/** Leaves the files of `directory` their metadata; their contents are in `data`, which is empty, as /1, /2 and so on. */
function moveContents(directory: string, data: string): number {
  const seen = new Set<number>();
  for (const { path } of walkTree(b(directory))) {
    const name = inside(directory, path);
    const file = toBytes(name);
    const { ino, size, atimeNs, mtimeNs } = lstatSync(file, { bigint: true });
    if (!lstatSync(file).isFile() || size === 0n || seen.has(Number(ino))) continue;
    seen.add(Number(ino));
    const capability = lgetxattr(name, CAPABILITY);
    writeFileSync(`${data}/${seen.size}`, readFileSync(file));
    truncateSync(file, 0);
    truncateSync(file, Number(size));
    if (capability !== undefined) lsetxattr(name, CAPABILITY, capability);
    utimensat(AT_FDCWD, name, atimeNs, mtimeNs);
    mark(name, 'metacopy', '');
    mark(name, 'redirect', `/${seen.size}`);
  }
  return seen.size;
}

/** Copies a layer onto another overlay, which takes no device 0:0: whiteouts become attributes. */
function copyOntoOverlay(from: string, to: string): string {
  const plain = `${from}.plain`;
  for (const path of [plain, to]) mkdirSync(path, { mode: 0o755 });
  copyTree(b(from), b(plain));
  const whiteouts = [...walkTree(b(from))].filter(({ stat }) => isWhiteout(stat)).map(({ path }) => path);
  const within = (directory: string, path: ByteString, task: (path: ByteString, parent: ByteString) => void): void => {
    const parent = path.slice(0, path.lastIndexOf('/')) as ByteString;
    const { atimeNs, mtimeNs } = lstatSync(toBytes(inside(from, parent)), { bigint: true });
    task(inside(directory, path), inside(directory, parent));
    utimensat(AT_FDCWD, inside(directory, parent), atimeNs, mtimeNs);
  };
  for (const path of whiteouts) within(plain, path, (name) => rmSync(toBytes(name)));
  copyTree(b(plain), b(to));
  for (const path of whiteouts) {
    within(to, path, (name, parent) => {
      writeFileSync(toBytes(name), '');
      mark(name, 'whiteout', '');
      mark(parent, 'opaque', 'x');
    });
  }
  return to;
}

/** Base and view are mounted: by the upper or without, the changes and the archive are the same, and give the view. */
function assertLaw(at: string, [upper = '', ...lowers]: readonly string[], tail = ''): number {
  let written: string[];
  {
    const work = upper.replace(/l(\d+)$/, 'w$1');
    using _ = mounted(`${at}/again`, `${MODE},lowerdir=${lowers.join(':')}${tail},upperdir=${upper},workdir=${work}`);
    written = dumpTree(`${at}/again`);
  }
  const reading = 'index=off,redirect_dir=follow,metacopy=on';
  using _view = mounted(`${at}/view`, `${reading},lowerdir=${[upper, ...lowers].join(':')}${tail}`);
  using _base = mounted(`${at}/base`, `${reading},lowerdir=${[...lowers, `${at}/none`].join(':')}${tail}`);
  const [view, base, copy] = [b(`${at}/view`), b(`${at}/base`), `${at}/copy`];
  const asked = { upper: b(upper), style: 'overlay', noIndex: true } as const;
  assert.deepEqual(dumpTree(`${at}/view`), written);
  checkUpper(base, asked);
  if (whyNotUpper(view, asked) !== undefined) return 0;
  const guided: WalkOptions = { upper: asked.upper, guide: 'overlay' };
  const list = (options: WalkOptions): string[] =>
    [...walkChanges(view, base, 'core', options)].map(({ kind, path }) => `${kind} ${quote(path)}`);
  assert.deepEqual(list(guided), list({}));
  const tars = [guided, {}].map((options) => {
    const chunks: Buffer[] = [];
    packTree(
      view,
      walkDifferences(view, base, options),
      options.upper === undefined ? {} : { upper: options.upper },
      (bytes) => chunks.push(Buffer.from(bytes)),
    );
    return Buffer.concat(chunks);
  });
  assert.ok(tars[0]?.equals(tars[1] as Buffer), 'the tars differ');
  mkdirSync(copy);
  copyTree(base, b(copy));
  applyByGnuTar(tars[0] as Buffer, copy);
  const strip = (lines: string[]): string[] => lines.map((line) => line.replace(/ link=.*/, ''));
  assert.deepEqual(strip(dumpTree(copy)), strip(dumpTree(`${at}/view`)));
  return 1;
}

function eachScript(
  path: string,
  run: (at: string, steps: typeof script extends fc.Arbitrary<infer T> ? T : never) => void,
): void {
  let count = 0;
  fc.assert(
    fc.property(script, (steps) => {
      rmSync(`${path}/${count}`, { recursive: true, force: true });
      const at = `${path}/${++count}`;
      mkdirSync(`${at}/none`, { recursive: true });
      run(at, steps);
    }),
    { numRuns: SCRIPTS },
  );
}

test('core(upper) = core(walk), and the tar gives the view, where the data are in a data-only lower (invariant 6)', async (t) => {
  if (!need(t, 'mount', 'tar')) return;
  await using dir = await tmpfs();
  let files = 0;
  let read = 0;
  eachScript(dir.path, (at, steps) => {
    const data = `${at}/data`;
    mkdirSync(data);
    const places: Places = {
      tail: `::${data}`,
      lower: (directory, layer) => {
        if (layer === 0) files += moveContents(directory, data);
        return directory;
      },
    };
    read += assertLaw(at, play(at, steps, MODE, places), `::${data}`);
  });
  t.diagnostic(`${files} files had their data elsewhere`);
  assert.ok(files > SCRIPTS && read > SCRIPTS / 2);
});

test('core(upper) = core(walk), and the tar gives the view, where the lowers lie on another overlay (invariant 6)', async (t) => {
  if (!need(t, 'mount', 'tar')) return;
  await using dir = await tmpfs();
  let read = 0;
  let escaped = 0;
  eachScript(dir.path, (at, steps) => {
    for (const name of ['below', 'inside', 'work']) mkdirSync(`${at}/${name}`);
    const outer = `${at}/outer`;
    using _ = mounted(outer, `index=off,lowerdir=${at}/below,upperdir=${at}/inside,workdir=${at}/work`);
    const layers = play(at, steps, MODE, { lower: (from, layer) => copyOntoOverlay(from, `${outer}/${layer}`) });
    // As they lie on disk: trusted.overlay.overlay.opaque, and so on.
    for (const { path } of walkTree(b(`${at}/inside`))) {
      const names = llistxattr(`${b(`${at}/inside`)}${path}` as ByteString);
      if (names.some((name) => /^trusted\.overlay\.overlay\.(opaque|redirect|whiteout|metacopy)$/.test(name)))
        escaped++;
    }
    read += assertLaw(at, layers);
  });
  t.diagnostic(`${escaped} escaped marks`);
  assert.ok(escaped > SCRIPTS / 4 && read > SCRIPTS / 2);
});

test('an upper on another overlay is refused by the kernel, and so is a third overlay on a second', async (t) => {
  if (!need(t, 'mount')) return;
  await using dir = await tmpfs();
  const at = dir.path;
  for (const name of ['l', 'u', 'w', 'none']) mkdirSync(`${at}/${name}`);
  using _ = mounted(`${at}/outer`, `lowerdir=${at}/l,upperdir=${at}/u,workdir=${at}/w`);
  for (const name of ['lower', 'upper', 'work']) mkdirSync(`${at}/outer/${name}`);
  const refused = (error: unknown): boolean => isStorageError(error) && error.errno === 'EINVAL';
  const places = `upperdir=${at}/outer/upper,workdir=${at}/outer/work`;
  assert.throws(() => mounted(`${at}/second`, `lowerdir=${at}/outer/lower,${places}`), refused);
  using __ = mounted(`${at}/inner`, `lowerdir=${at}/outer/lower:${at}/none`);
  assert.throws(() => mounted(`${at}/third`, `lowerdir=${at}/inner:${at}/none`), refused);
});
