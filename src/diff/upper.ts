import { type ByteString, joinBytes, quote } from '../base/bytes.ts';
import { isStorageError, StorageError } from '../base/errors.ts';
import { Descent } from '../fs/descent.ts';
import { isFile } from '../fs/stat.ts';
import { overlayMarks, overlayPrefix, WHITEOUT_PREFIX, type WhiteoutStyle } from '../fs/whiteouts.ts';
import { type DirectoryEntry, DT_DIR, DT_UNKNOWN, lstatat, readDirectory, type Stat } from '../linux/inode.ts';
import { ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR } from '../linux/libc.ts';
import { fgetxattr, flistxattr } from '../linux/xattr.ts';
import { FUSE_REMEDY } from '../mount/raw.ts';
import { countLinks, strayLink } from './links.ts';
import type { Listing } from './types.ts';

// What an upper directory says of a view, and whether that is enough. A path whose ancestors are all in the upper, as
// directories that show nothing but themselves and what the base has there, can only differ if it is in the upper too:
// so the walk (`walk.ts`) asks about those names alone. Below a directory that shows another one (redirect) it compares
// everything. What may have a mark of overlay's (metacopy, redirects, xattr whiteouts and whatever comes next) is looked
// at in the kernel's own view, where it is read by who wrote it. One thing escapes: names that are links to each other.

/** How the upper of a view is to be read. */
export interface UpperReading {
  readonly upper: ByteString;
  readonly style: Exclude<WhiteoutStyle, 'none'>;
  /** The upper was never written under `index=on`. */
  readonly noIndex: boolean;
  /** Who wrote it is not known: it may have been fuse-overlayfs, whose marks the kernel takes for files. */
  readonly foreign?: boolean;
}

/** How names are counted. */
export interface LinkCounting {
  /** Called for each name; may throw. */
  readonly check?: () => void;
  readonly count?: typeof countLinks;
}

/**
 * Why the upper does not tell all that differs between the mounted `view` and its base; undefined where it does. Names
 * of an inode outside of what the upper leads to change with those inside (under `index=on`), or differ from them in what
 * they are linked to and have to be carried with them (files that were moved with their directory). `moved`: whether that
 * is asked, and a directory was moved, as `checkUpper` answers.
 */
export function whyNotUpper(
  view: ByteString,
  { upper, style, noIndex }: UpperReading,
  moved: boolean = hasRedirects(upper, style),
  { check = () => {}, count = countLinks }: LinkCounting = {},
): string | undefined {
  if (noIndex && !moved) return undefined;
  const path = strayLink(count(view, { upper, style }, check));
  return path === undefined ? undefined : `${path} has names in places that the upper directory does not lead to`;
}

/** Whether a directory in the upper shows another one. Files are not looked at. */
function hasRedirects(upper: ByteString, style: WhiteoutStyle): boolean {
  for (const { marks } of directoriesOf(upper, style)) if (marks.redirect) return true;
  return false;
}

/** Names that `checkUpper` keeps for the walk, in all: those of directories beyond are read again. */
const LISTED_MAX = 20_000;

/** What `checkUpper` saw. */
export interface CheckedUpper {
  /** Whether a directory shows another one. */
  readonly redirects: boolean;
  /** Of the first directories, by path (the root's is `/`): what is in them. */
  readonly listings: ReadonlyMap<ByteString, Listing>;
}

/**
 * Reads all directories of an upper; `check` is called for each, with what is in it, and may throw; `look`, if given,
 * too, and answers what its names are.
 * `corrupt`: one shows a directory that the mounted `base` does not have; the kernel would show it empty.
 * `unsupported`: a foreign upper has marks of fuse-overlayfs.
 */
export function checkUpper(
  base: ByteString,
  { upper, style, foreign = false }: UpperReading,
  check: (directory: Pick<UpperDirectory, 'fd' | 'names'>) => void = () => {},
  look?: (directory: Pick<UpperDirectory, 'fd' | 'names' | 'types'>) => Listing['stats'],
): CheckedUpper {
  using below = Descent.open(base);
  const listings = new Map<ByteString, Listing>();
  let room = LISTED_MAX;
  let redirects = false;
  for (const { fd, path, names, types, attributes, marks, from } of directoriesOf(upper, style)) {
    check({ fd, names });
    const stats = look?.({ fd, names, types });
    if (foreign) refuseFuseMarks(fd, path, { names, attributes });
    room -= names.length + 1;
    if (room >= 0) listings.set(path, { names, attributes, marks, stats });
    redirects ||= marks.redirect;
    if (!marks.redirect || marks.opaque || (from !== undefined && isDirectoryIn(below, from))) continue;
    const value = fgetxattr(fd, `${overlayPrefix(style)}redirect` as ByteString) ?? '';
    throw new StorageError(
      'corrupt',
      `Cannot read ${quote(path)}: it was moved from ${quote(value.toString('latin1') as ByteString)} (overlay.redirect), and no such directory is below; give it the layers that it was written over`,
      { path },
    );
  }
  return { redirects, listings };
}

/** As it makes them where it may make devices, and where it may not (fuse-overlayfs 1.x, main.c). */
export function refuseFuseMarks(
  fd: number,
  path: ByteString,
  { names, attributes }: Pick<Listing, 'names' | 'attributes'>,
): void {
  const isEmpty = (stat: Stat | undefined): boolean => stat !== undefined && isFile(stat) && stat.sizeBytes === 0;
  const name = names.find((one) => one.startsWith(WHITEOUT_PREFIX) && isEmpty(lstatat(fd, one, ENOENT)));
  const attribute = attributes.find((one) => /^user\.(fuseoverlayfs\.|containers\.override_stat$)/.test(one));
  if (name === undefined && attribute === undefined) return;
  const mark = name === undefined ? `${attribute} of ${quote(path)}` : quote(joinBytes(path, name));
  throw new StorageError(
    'unsupported',
    `Cannot read the upper directory: ${mark} is a mark of fuse-overlayfs, which the kernel does not read. ${FUSE_REMEDY}`,
    { path, remedy: FUSE_REMEDY },
  );
}

/** A directory of an upper. */
export interface UpperDirectory extends Listing {
  /** Until the next one is asked for. */
  readonly fd: number;
  readonly path: ByteString;
  /** Of each name, as getdents64(2) tells it (DT_DIR…). */
  readonly types: readonly number[];
  /** Where the base has what it shows; undefined: nowhere. */
  readonly from: ByteString | undefined;
}

/** All directories of an upper, the root first; the kernel ignores its marks. */
export function* directoriesOf(upper: ByteString, style: WhiteoutStyle): Generator<UpperDirectory, void, undefined> {
  using at = Descent.open(upper);
  const stack: { path: string; from: string | undefined; directories: readonly ByteString[]; next: number }[] = [];
  /** What is in the directory that was entered last. */
  const enter = (path: string, from: string | undefined): Pick<UpperDirectory, 'names' | 'types'> => {
    const entries = entriesOf(at).sort((one, other) => (one.name < other.name ? -1 : 1));
    const directories = entries.filter(({ type }) => type === DT_DIR || type === DT_UNKNOWN);
    stack.push({ path, from, directories: directories.map(({ name }) => name), next: 0 });
    return { names: entries.map(({ name }) => name), types: entries.map(({ type }) => type) };
  };
  const root = '/' as ByteString;
  const attributes = flistxattr(at.fd);
  yield { fd: at.fd, path: root, ...enter('', ''), attributes, marks: overlayMarks(at.fd, 'none'), from: root };
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const name = level.directories[level.next++];
    if (name === undefined) {
      stack.pop();
      if (stack.length > 0) at.leave();
      continue;
    }
    if (at.enter(name, ENOENT, ENOTDIR, ELOOP) < 0) continue;
    const path = `${level.path}/${name}` as ByteString;
    const attributes = flistxattr(at.fd);
    const marks = overlayMarks(at.fd, style, attributes);
    let from = marks.opaque || level.from === undefined ? undefined : (`${level.from}/${name}` as ByteString);
    if (marks.redirect && !marks.opaque) from = redirectOf(at.fd, style, level.from);
    yield { fd: at.fd, path, ...enter(path, from), attributes, marks, from };
  }
}

/** None of a directory that was removed since it was opened (getdents64(2), ENOENT). */
function entriesOf(at: Descent): DirectoryEntry[] {
  try {
    return readDirectory(at.fd, at.path);
  } catch (error) {
    if (isStorageError(error) && error.errno === 'ENOENT') return [];
    throw error;
  }
}

/** From the root, or a name in what the directory above shows (fs/overlayfs/namei.c, ovl_check_redirect). */
function redirectOf(fd: number, style: WhiteoutStyle, above: string | undefined): ByteString | undefined {
  const value = fgetxattr(fd, `${overlayPrefix(style)}redirect` as ByteString)?.toString('latin1') ?? '';
  if (value.startsWith('/')) return value as ByteString;
  return above === undefined || value === '' ? undefined : (`${above}/${value}` as ByteString);
}

/** By its path from the root of `tree`. */
export function isDirectoryIn(tree: Descent, path: ByteString): boolean {
  const names = path.slice(1).split('/') as ByteString[];
  if (names.some((name) => name === '' || name === '.' || name === '..')) return false;
  tree.moveTo([]);
  return names.every((name) => tree.enter(name, ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG) === 0);
}
