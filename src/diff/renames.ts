import type { ByteString } from '../base/bytes.ts';
import { Descent } from '../fs/descent.ts';
import { directoriesOf, isDirectoryIn, type UpperReading } from './upper.ts';

type Path = ByteString;

/**
 * The directories that the upper says were moved, by where they are now, with where they were in the mounted `base`: all
 * that needs one line in a list. Left out are those of which the base has nothing or that are where they were, those
 * whose old place shows them too, and what claims a place that another one has already (both only by who writes to the
 * upper himself).
 */
export function renamedDirectories(upper: Path, base: Path, style: UpperReading['style']): ReadonlyMap<Path, Path> {
  const claims = new Map<Path, Path>();
  {
    using below = Descent.open(base);
    for (const { path, marks, from } of directoriesOf(upper, style)) {
      if (marks.redirect && !marks.opaque && from !== undefined && isDirectoryIn(below, from)) claims.set(path, from);
    }
  }
  const renames = new Map<Path, Path>();
  if (claims.size === 0) return renames;
  const places = placesOf(upper, style, claims);
  const taken = new Set<Path>();
  const back: (readonly [Path, Path, string])[] = [];
  for (const [path, from] of claims) {
    const { at, above } = comparedWith(renames, path);
    if (from === at) back.push([path, from, above]);
    else if (!taken.has(from) && !isShown(from, places)) {
      renames.set(path, from);
      taken.add(from);
    }
  }
  // What came back is compared where it is, but for one that came back without a directory it was in.
  for (const [path, from, above] of back) {
    const left = parentsOf(from).some((parent) => parent.length > above.length && taken.has(parent));
    if (!left || taken.has(from)) continue;
    renames.set(path, from);
    taken.add(from);
  }
  return renames;
}

/** Where in the base lies what the walk compares with `path`, and the moved directory that says so (empty: none). */
function comparedWith(renames: ReadonlyMap<Path, Path>, path: Path): { readonly at: Path; readonly above: string } {
  for (const parent of parentsOf(path)) {
    const from = renames.get(parent);
    if (from !== undefined) return { at: `${from}${path.slice(parent.length)}` as Path, above: from };
  }
  return { at: path, above: '' };
}

/** Nearest first, without the root. */
function parentsOf(path: Path): Path[] {
  const parents: Path[] = [];
  for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1)) {
    parents.push(path.slice(0, end) as Path);
  }
  return parents;
}

/** A directory of the upper that shows one of the base. */
interface Place {
  /** Not because it was moved there. */
  readonly natural: boolean;
  /** What it has of the names that are asked for. */
  readonly names: ReadonlySet<Path>;
}

/** By directory of the base, where all on the way to what was moved are shown, and that itself. */
function placesOf(
  upper: Path,
  style: UpperReading['style'],
  claims: ReadonlyMap<Path, Path>,
): ReadonlyMap<Path, readonly Place[]> {
  const asked = new Map<Path, Set<Path>>();
  for (const from of claims.values()) {
    for (const path of [from, ...parentsOf(from)]) {
      const names = asked.get(parentOf(path)) ?? new Set();
      asked.set(parentOf(path), names.add(nameOf(path)));
      if (!asked.has(path)) asked.set(path, new Set());
    }
  }
  const places = new Map<Path, Place[]>();
  for (const { path, from, names } of directoriesOf(upper, style)) {
    const wanted = from === undefined ? undefined : asked.get(from);
    if (from === undefined || wanted === undefined) continue;
    const natural = (claims.get(path) ?? path) === path;
    const place = { natural, names: new Set(names.filter((name) => wanted.has(name))) };
    places.set(from, [...(places.get(from) ?? []), place]);
  }
  return places;
}

/** Whether what was in the base is still shown where it was. */
function isShown(from: Path, places: ReadonlyMap<Path, readonly Place[]>): boolean {
  if (places.get(from)?.some(({ natural }) => natural) === true) return true;
  for (const path of [from, ...parentsOf(from)]) {
    const shown = places.get(parentOf(path));
    // What the upper has by that name is a whiteout, or hides it: what shows the same was found before.
    if (shown !== undefined) return shown.some(({ names }) => !names.has(nameOf(path)));
  }
  return false;
}

function parentOf(path: Path): Path {
  return path.slice(0, Math.max(1, path.lastIndexOf('/'))) as Path;
}

function nameOf(path: Path): Path {
  return path.slice(path.lastIndexOf('/') + 1) as Path;
}
