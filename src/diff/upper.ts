import type { ByteString } from '../base/bytes.ts';
import { Descent } from '../fs/descent.ts';
import { inodeKey, isDirectory, isWhiteout } from '../fs/stat.ts';
import { overlayMarks, overlayPrefix, type WhiteoutStyle } from '../fs/whiteouts.ts';
import { lstatat, type Stat } from '../linux/inode.ts';
import { ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, located } from '../linux/libc.ts';
import { fgetxattr } from '../linux/xattr.ts';
import { ofReading } from './walk.ts';

// What an upper directory says of a view, and whether that is enough. A path whose ancestors are all in the upper, as
// directories that show nothing but themselves and what the base has there, can only differ if it is in the upper too:
// so the walk (`walk.ts`) asks the two trees about those names alone. Below a directory that hides or shows another one
// (opaque, redirect) it compares everything. Both trees are the kernel's own view, so that metacopy, redirects, xattr
// whiteouts and whatever comes next are read by who wrote them. One thing escapes: names that are links to each other.

/** How the upper of a view is to be read. */
export interface UpperReading {
  readonly upper: ByteString;
  readonly style: Exclude<WhiteoutStyle, 'none'>;
  /** The upper was never written under `index=on`. */
  readonly noIndex: boolean;
}

/**
 * Why the upper does not tell all that differs between the mounted `view` and its base; undefined where it does. Names
 * of an inode outside of what the upper leads to change, or have to be carried, with those inside.
 */
export function whyNotUpper(view: ByteString, { upper, style, noIndex }: UpperReading): string | undefined {
  if (noIndex && !hasRedirects(upper, style)) return undefined;
  const path = strayLink(view, upper, style);
  return path === undefined ? undefined : `${path} has names in places that the upper directory does not lead to`;
}

/** Whether a directory in the upper shows another one. Files are not looked at. */
function hasRedirects(upper: ByteString, style: WhiteoutStyle): boolean {
  using at = Descent.open(upper);
  const stack = [{ names: at.directories(), next: 0 }];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const name = level.names[level.next++];
    if (name === undefined) {
      stack.pop();
      if (stack.length > 0) at.leave();
    } else if (at.enter(name, ENOENT, ENOTDIR, ELOOP) === 0) {
      if (overlayMarks(at.fd, style).redirect) return true;
      stack.push({ names: at.directories(), next: 0 });
    }
  }
  return false;
}

/** The first path that a walk by the upper comes to and whose inode has names that it does not come to. */
function strayLink(viewRoot: ByteString, upperRoot: ByteString, style: WhiteoutStyle): ByteString | undefined {
  /** By inode: a path, and how many of its names are still to be found. */
  const missing = new Map<string, { readonly path: ByteString; left: number }>();
  using view = Descent.open(viewRoot);
  using upper = Descent.open(upperRoot);
  const stack = [{ path: '', names: upper.names(), next: 0, inUpper: true }];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const name = level.names[level.next++];
    if (name === undefined) {
      stack.pop();
      if (stack.length === 0) break;
      view.leave();
      if (level.inUpper) upper.leave();
      continue;
    }
    const path = `${level.path}/${name}` as ByteString;
    const stat = statIn(view, name, path);
    if (stat === undefined || isWhiteout(stat)) continue;
    if (isDirectory(stat)) {
      if (view.enter(name, ENOENT) < 0) continue;
      const enters = level.inUpper && upper.enter(name, ENOENT, ENOTDIR, ELOOP) === 0;
      const inUpper = enters && !overlayMarks(upper.fd, style).redirect;
      if (enters && !inUpper) upper.leave(); // all of it is read, wherever it comes from
      stack.push({ path, names: inUpper ? upper.names() : view.names(), next: 0, inUpper });
    } else if (stat.nlink > 1) {
      const key = inodeKey(stat);
      const known = missing.get(key);
      if (known === undefined) missing.set(key, { path, left: stat.nlink - 1 });
      else if (--known.left === 0) missing.delete(key);
    }
  }
  return missing.values().next().value?.path;
}

function statIn(view: Descent, name: ByteString, path: ByteString): Stat | undefined {
  try {
    return lstatat(view.fd, name, ENOENT);
  } catch (error) {
    throw ofReading(located(error, path), path);
  }
}

/**
 * The directories that the upper says were moved, by where they are now, with where they were in the mounted `base`.
 * Those of which the base has nothing, and what claims a place that another one has already, are left out.
 */
export function renamedDirectories(
  upper: ByteString,
  base: ByteString,
  style: UpperReading['style'],
): ReadonlyMap<ByteString, ByteString> {
  const renames = new Map<ByteString, ByteString>();
  const taken = new Set<ByteString>();
  using at = Descent.open(upper);
  using below = Descent.open(base);
  const top: { path: string; basePath: string | undefined; names: ByteString[]; next: number } = {
    path: '',
    basePath: '',
    names: at.directories(),
    next: 0,
  };
  const stack = [top];
  for (let level = stack.at(-1); level !== undefined; level = stack.at(-1)) {
    const name = level.names[level.next++];
    if (name === undefined) {
      stack.pop();
      if (stack.length > 0) at.leave();
      continue;
    }
    if (at.enter(name, ENOENT, ENOTDIR, ELOOP) < 0) continue;
    const path = `${level.path}/${name}` as ByteString;
    const { opaque, redirect } = overlayMarks(at.fd, style);
    let basePath: string | undefined = level.basePath === undefined || opaque ? undefined : `${level.basePath}/${name}`;
    if (redirect && !opaque) {
      basePath = redirectOf(at.fd, style, level.basePath);
      const from = basePath as ByteString | undefined;
      if (from !== undefined && !taken.has(from) && isDirectoryIn(below, from)) {
        renames.set(path, from);
        taken.add(from);
      }
    }
    stack.push({ path, basePath, names: at.directories(), next: 0 });
  }
  return renames;
}

/** From the root, or a name in what the directory above shows (fs/overlayfs/namei.c, ovl_check_redirect). */
function redirectOf(fd: number, style: UpperReading['style'], above: string | undefined): string | undefined {
  const value = fgetxattr(fd, `${overlayPrefix(style)}redirect` as ByteString)?.toString('latin1') ?? '';
  if (value.startsWith('/')) return value;
  return above === undefined || value === '' ? undefined : `${above}/${value}`;
}

function isDirectoryIn(tree: Descent, path: ByteString): boolean {
  const names = path.slice(1).split('/') as ByteString[];
  if (names.some((name) => name === '' || name === '.' || name === '..')) return false;
  tree.moveTo([]);
  return names.every((name) => tree.enter(name, ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG) === 0);
}
