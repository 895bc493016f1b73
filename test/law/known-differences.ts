import assert from 'node:assert/strict';
import { lstatSync } from 'node:fs';
import { type ByteString, fromText, quote, toBytes } from '../../src/base/bytes.ts';
import { llistxattr } from '../../src/linux/xattr.ts';
import type { TreeEntry } from '../kit/tree-dump.ts';

// What differs between two trees that should be equal, because the kernel has it so. Nothing else may.

/** Where a tree is looked at. */
export interface Scene {
  /** With what the upper was written. */
  readonly mode: string;
  readonly upper: string;
  /** What lies below the upper, and what the two show read-only. */
  readonly base: readonly TreeEntry[];
  readonly view: readonly TreeEntry[];
}

/** A name of which two trees show two things. */
export interface Difference {
  readonly path: ByteString;
  /** What the view shows. */
  readonly view: string | undefined;
  /** What the other tree shows. */
  readonly other: string | undefined;
}

/** Two names that are links to each other in one of two trees only. */
export interface Parted {
  readonly paths: readonly [ByteString, ByteString];
  readonly linkedIn: 'view' | 'other';
}

export interface KnownDifference {
  readonly name: string;
  /** The kernel's. */
  readonly reason: string;
  /** Which tree differs from the view: the mount that wrote it, or a copy of the base with the tar applied to it. */
  readonly other: 'written' | 'applied';
  readonly differs?: (scene: Scene, difference: Difference) => boolean;
  readonly parted?: (scene: Scene, parted: Parted) => boolean;
}

export const KNOWN_DIFFERENCES: readonly KnownDifference[] = [
  {
    name: 'numbers of copied-up devices under userxattr',
    reason:
      'user attributes are for files and directories alone (xattr(7)), so under userxattr nothing else can be marked with where it was copied up from (overlay.origin). Until it is forgotten the name that was there has the number of the inode below, and a link that is made to it the number of the copy (observed on 6.18; overlayfs.rst, "Inode properties").',
    other: 'written',
    parted: ({ mode, view }, { paths, linkedIn }) =>
      mode.endsWith('userxattr') &&
      linkedIn === 'view' &&
      view.some(
        ({ path, looks }) => path === paths[0] && /^(?:symlink|fifo|character-device|block-device) /.test(looks),
      ),
  },
  {
    name: 'links that a copy-up cut',
    reason:
      'A file with several names below that is copied up without an index is a file of its own from then on (overlayfs.rst, "Non-standard behavior", "index"). Where nothing else of it changed no list tells of it, and no tar (decision 19, "Not told").',
    other: 'applied',
    parted: (scene, parted) => isUntoldCut(scene, parted) && parted.paths.some((path) => liesIn(scene.upper, path)),
  },
  {
    name: 'an equal file from a moved directory in the place of one with several names',
    reason:
      'What a moved directory shows (overlayfs.rst, "redirect_dir") lies in no upper. By what the two views show, the file is one whose links a copy-up cut: equal in all but that, so that nothing tells of it.',
    other: 'applied',
    parted: (scene, parted) =>
      scene.mode.includes('redirect_dir=on') &&
      isUntoldCut(scene, parted) &&
      parted.paths.some((path) => isMoved(scene.upper, path)),
  },
];

/**
 * Whether a file of the view has more names than it says. Only who deletes the whiteout that a moved directory left, in
 * the upper itself, can have it so: the kernel then shows one directory of the layers below in two places. Counting
 * links proves nothing there, and a walk by the upper carries fewer of them.
 */
export function isShownTwice(view: readonly TreeEntry[]): boolean {
  const found = new Map<ByteString, number>();
  for (const { link } of view) if (link !== undefined) found.set(link, (found.get(link) ?? 1) + 1);
  return view.some(({ path, names }) => (found.get(path) ?? 1) > names);
}

/** Fails where `other` is not what the view is, for a reason that is not known; answers the known ones, as often as met. */
export function assertSame(
  scene: Scene,
  which: KnownDifference['other'],
  other: readonly TreeEntry[],
): readonly KnownDifference[] {
  const known = KNOWN_DIFFERENCES.filter((one) => one.other === which);
  const [inView, inOther] = [looksOf(scene.view), looksOf(other)];
  const met: KnownDifference[] = [];
  for (const path of new Set([...inView.keys(), ...inOther.keys()])) {
    const difference = { path, view: inView.get(path), other: inOther.get(path) };
    if (difference.view === difference.other) continue;
    const why = known.find(({ differs }) => differs?.(scene, difference) === true);
    if (why === undefined) assert.deepEqual(difference.other, difference.view, `${quote(path)}, ${which}`);
    else met.push(why);
  }
  for (const [linkedIn, links, others] of [
    ['view', scene.view, other],
    ['other', other, scene.view],
  ] as const) {
    for (const paths of pairs(links)) {
      if (areLinked(others, paths)) continue;
      const why = known.find(({ parted }) => parted?.(scene, { paths, linkedIn }) === true);
      const where = linkedIn === 'view' ? `in the view, and not as ${which}` : `as ${which}, and not in the view`;
      assert.ok(why !== undefined, `${paths.map(quote).join(' and ')} are linked ${where}`);
      met.push(why);
    }
  }
  return met;
}

function looksOf(tree: readonly TreeEntry[]): Map<ByteString, string> {
  return new Map(tree.map(({ path, looks }) => [path, looks]));
}

/** The first name of its links, for all names that have others. */
function linksOf(tree: readonly TreeEntry[]): Map<ByteString, ByteString> {
  const links = new Map<ByteString, ByteString>();
  for (const { path, link } of tree) if (link !== undefined) links.set(path, link).set(link, link);
  return links;
}

function areLinked(tree: readonly TreeEntry[], [one, other]: Parted['paths']): boolean {
  const links = linksOf(tree);
  return links.get(one) !== undefined && links.get(one) === links.get(other);
}

/** Of each group of links, enough pairs. */
function pairs(tree: readonly TreeEntry[]): Parted['paths'][] {
  return tree.flatMap(({ path, link }) => (link === undefined ? [] : [[link, path] as const]));
}

/** Two names that are links below, of files that are no longer, and equal. */
function isUntoldCut({ base, view }: Scene, { paths, linkedIn }: Parted): boolean {
  const [before, now] = [looksOf(base), looksOf(view)];
  return linkedIn === 'other' && areLinked(base, paths) && paths.every((path) => before.get(path) === now.get(path));
}

/** Whether a directory on the way to the path shows another one. */
function isMoved(upper: string, path: ByteString): boolean {
  const parents = path.split('/').map((_, i, parts) => parts.slice(0, i).join('/'));
  return parents.some(
    (parent) =>
      parent !== '' &&
      liesIn(upper, parent as ByteString) &&
      llistxattr(`${fromText(upper)}${parent}` as ByteString).includes('trusted.overlay.redirect' as ByteString),
  );
}

function liesIn(upper: string, path: ByteString): boolean {
  const at = toBytes(`${fromText(upper)}${path}` as ByteString);
  return lstatSync(at, { throwIfNoEntry: false }) !== undefined;
}
