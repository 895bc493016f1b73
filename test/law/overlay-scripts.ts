import { mkdirSync } from 'node:fs';
import fc from 'fast-check';
import { fromText } from '../../src/base/bytes.ts';
import { isStorageError } from '../../src/index.ts';
import { MNT_DETACH, mount, umount } from '../../src/linux/mount.ts';
import { applyEdits, type Edit, edits, making } from '../kit/edits.ts';

const b = fromText;

/** What is done to a stack of overlays. */
export interface Script {
  /** Bottom first; the last is the upper. */
  readonly layers: readonly (readonly Edit[])[];
  /** Done to the upper directory itself, while nothing is mounted. */
  readonly offline: readonly Edit[];
}

const directory = fc.constantFrom('a', 'b', 'a/a', 'a/b', 'b/a');
/** A directory in the place of another one: under redirect_dir both trees have that path, and show different files. */
const taking = fc
  .tuple(directory, directory)
  .filter(([from, to]) => from !== to)
  .map(([path, to]): Edit[] => [
    { do: 'delete', path: to },
    { do: 'rename', path, to },
  ]);
const child = fc.constantFrom('a', 'b', 'ä');
/** A directory that is removed and made anew, with some of what it had: nothing below shows through, at any depth. */
const remade = fc
  .tuple(
    directory,
    fc.array(fc.tuple(child, fc.constantFrom('mkdir' as const, 'create' as const)), { maxLength: 3 }),
    child,
  )
  .map(([path, made, inside]): Edit[] => [
    { do: 'delete', path },
    { do: 'mkdir', path },
    ...made.flatMap(([name, what]): Edit[] =>
      what === 'create'
        ? [{ do: what, path: `${path}/${name}`, seed: 3 }]
        : [
            { do: what, path: `${path}/${name}` },
            { do: 'create', path: `${path}/${name}/${inside}`, seed: 4 },
          ],
    ),
  ]);
/** Where a directory is for a moment that is moved and then moved back: its mark says that it is where it was. */
export const AWAY = 'away';
const returned = directory.map((path): Edit[] => [
  { do: 'rename', path, to: AWAY },
  { do: 'rename', path: AWAY, to: path },
]);
/** The same in a directory that was moved itself: the mark says where it was with that one. */
const returnedInside = fc.constantFrom(['a', 'b'] as const, ['b', 'a'] as const).map(([path, to]): Edit[] => [
  { do: 'delete', path: to },
  { do: 'rename', path, to },
  { do: 'rename', path: `${to}/a`, to: AWAY },
  { do: 'rename', path: AWAY, to: `${to}/a` },
]);
/** As `edits`, now and then with such moves and directories between. */
export function moves(max: number): fc.Arbitrary<Edit[]> {
  return fc
    .array(
      fc.oneof(
        { weight: 2, arbitrary: edits(4) },
        { weight: 1, arbitrary: fc.oneof(taking, remade, returned, returnedInside) },
      ),
      {
        maxLength: max,
        size: 'max',
      },
    )
    .map((parts) => parts.flat());
}

/** Edits of two layers: the file that has a name elsewhere, and what moves it away from there. */
export interface Strays {
  readonly linked: readonly Edit[];
  readonly moved: readonly Edit[];
}

/** In half of all cases: a file of those that are made first has another name in another place, and then a directory above one is moved. */
export const strays: fc.Arbitrary<Strays> = fc.oneof(
  { withCrossShrink: true },
  fc.constant({ linked: [], moved: [] }),
  fc
    .record({
      file: fc.constantFrom('a/ä', 'a/a/a', 'a/a/b', 'a/b/a', 'b/a/b'),
      name: fc.constantFrom('a.b', 'b/a.b', 'a/a.b', 'b/a/a.b'),
      moved: directory,
      to: fc.constantFrom('c', 'b/c', 'a/c', 'b/ä'),
      written: fc.constantFrom('append' as const, 'rewrite' as const, 'delete' as const),
    })
    .map(
      ({ file, name, moved, to, written }): Strays => ({
        linked: [{ do: 'link', path: file, to: name }],
        moved: [
          { do: 'rename', path: moved, to },
          written === 'append' ? { do: written, path: name, seed: 8 } : { do: written, path: name },
        ],
      }),
    ),
);

/** Stacks of two to six layers, now and then with edits of the upper directory itself. */
export const script: fc.Arbitrary<Script> = fc.record({
  layers: fc
    .tuple(making(14), fc.array(moves(3), { maxLength: 4, size: 'max' }), moves(5), strays)
    .map(([first, between, last, { linked, moved }]) => [[...first, ...linked], ...between, [...moved, ...last]]),
  offline: fc.oneof({ weight: 3, arbitrary: fc.constant([]) }, { weight: 1, arbitrary: edits(4) }),
});

/** Mounts at `target` for as long as the block lasts; `detach`: what is mounted in it goes with it. */
export function mounted(
  target: string,
  data: string,
  { type = 'overlay', detach = false }: { readonly type?: string; readonly detach?: boolean } = {},
): Disposable {
  mkdirSync(target);
  for (let tries = 0; ; tries++) {
    try {
      mount(b(type), b(target), b(type), 0, b(data));
      break;
    } catch (error) {
      // With an index an upper is taken until the last copy of its mount is gone, in whatever namespace was made of ours.
      if (!isStorageError(error, 'busy') || tries === 200) throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
  }
  return { [Symbol.dispose]: () => void umount(b(target), detach ? MNT_DETACH : 0) };
}

/** Where the layers of a stack lie, other than where they were written. */
export interface Places {
  /** Takes a finished layer, the lowest is 0; answers its directory as a lower. */
  readonly lower?: (directory: string, layer: number) => string;
  /** After the lowers in `lowerdir=`: data-only ones. */
  readonly tail?: string;
  /** Looks at the last layer's view, still mounted for writing. */
  readonly written?: (merged: string) => void;
}

/** Runs the script below `at`; answers the layers' directories, top first. */
export function play(
  at: string,
  { layers, offline }: Script,
  mode: string,
  { lower = (directory) => directory, tail = '', written }: Places = {},
): readonly string[] {
  const made: string[] = [];
  for (const [i, steps] of layers.entries()) {
    const [upper, work, merged] = [`${at}/l${i}`, `${at}/w${i}`, `${at}/m${i}`] as const;
    for (const dir of [upper, work]) mkdirSync(dir, { mode: 0o755 });
    if (i === 0) applyEdits(upper, steps);
    else {
      using _ = mounted(merged, `${mode},lowerdir=${made.join(':')}${tail},upperdir=${upper},workdir=${work}`);
      applyEdits(merged, steps);
      if (i === layers.length - 1) written?.(merged);
    }
    made.unshift(i === layers.length - 1 ? upper : lower(upper, i));
  }
  applyEdits(made[0] as string, offline);
  return made;
}

/** What a mode leaves for reading: no upper is named, so there is no index to keep. */
export function readingMode(mode: string): string {
  return mode.replace('index=on', 'index=off').replace('redirect_dir=off', 'redirect_dir=follow');
}
