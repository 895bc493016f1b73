import { type ByteString, quote } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';
import type { LayerId } from '../../base/values.ts';
import { ensureDirectory, makeDirectory, makeFile, temporaryName } from '../../fs/atomic.ts';
import { removeTree } from '../../fs/remove.ts';
import { ACL_DEFAULT, keepXattr, xattrsOf } from '../../fs/xattrs.ts';
import { AT_FDCWD, lstatat, RENAME_NOREPLACE, readlinkat, renameat2, symlinkat, unlinkat } from '../../linux/inode.ts';
import { EEXIST, EINVAL, ENOENT } from '../../linux/libc.ts';
import { randomBytes } from '../../linux/random.ts';
import { lsetxattr } from '../../linux/xattr.ts';
import { exists, isDirectoryAt, listNames, type Owner, readSmall, tampered, withDirectory } from '../home-files.ts';
import { isLayerId, parseLayerId } from '../ids.ts';

// Docker's overlay2 layout (docs/on-disk.md): ID/{diff,link,lower,work,merged,committed} and l/LINK -> ../ID/diff.
// What is read here may have been tampered with: it is parsed, never joined raw.

/** 26 characters of A-Z2-7: the short name of a layer in `l/`. */
export type LinkName = string & { readonly __link: unique symbol };

/** A layer as its files tell it. */
export interface OverlayLayer {
  readonly link: LinkName;
  /** Top first; empty for a base. */
  readonly lowers: readonly LinkName[];
  readonly committed: boolean;
}

/** Docker opens homes up to this depth only (overlay2's maxDepth). */
export const LOWERS_MAX = 128;

const LINK = /^[A-Z2-7]{26}$/;
const LINK_ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

export interface OverlayPaths {
  readonly layer: ByteString;
  readonly diff: ByteString;
  readonly work: ByteString;
  readonly merged: ByteString;
}

export function pathsOf(home: ByteString, id: LayerId): OverlayPaths {
  const layer = `${home}/${id}`;
  return { layer, diff: `${layer}/diff`, work: `${layer}/work`, merged: `${layer}/merged` } as OverlayPaths;
}

export function ensureLinks(home: ByteString, owner: Owner): void {
  ensureDirectory(`${home}/l` as ByteString, 0o700, process.geteuid?.() ?? 0, owner.gid);
}

export function hasLayer(home: ByteString, id: LayerId): boolean {
  return isDirectoryAt(pathsOf(home, id).layer);
}

/** The layers with a valid `link` and a `diff`. */
export function listLayers(home: ByteString): LayerId[] {
  return listNames(home)
    .filter((name) => isLayerId(name) && LINK.test(readSmallOrNothing(`${home}/${name}/link` as ByteString)))
    .map((name) => name as string as LayerId)
    .filter((id) => isDirectoryAt(pathsOf(home, id).diff));
}

// A list leaves out what is not whole, for whatever reason; reading that layer says the reason.
function readSmallOrNothing(path: ByteString): string {
  try {
    return readSmall(path) ?? '';
  } catch (error) {
    if (error instanceof StorageError && error.code === 'corrupt') return '';
    throw error;
  }
}

/** Absent: not-found; files that no driver wrote: corrupt. */
export function readLayer(home: ByteString, id: LayerId): OverlayLayer {
  const { layer } = pathsOf(home, id);
  const gone = (): StorageError =>
    new StorageError('not-found', `Cannot find layer ${quote(id as string as ByteString)} in ${quote(home)}`, {
      layer: id,
      path: layer,
    });
  if (!isDirectoryAt(layer)) throw gone();
  try {
    return readFiles(home, id);
  } catch (error) {
    throw isDirectoryAt(layer) ? error : gone(); // it was removed meanwhile
  }
}

function readFiles(home: ByteString, id: LayerId): OverlayLayer {
  const { layer, diff } = pathsOf(home, id);
  const link = parseLink(`${layer}/link` as ByteString);
  if (!isDirectoryAt(diff)) throw tampered(diff, 'there is no such directory');
  const path = `${layer}/lower` as ByteString;
  const lower = readSmall(path);
  const lowers = lower === undefined ? [] : parseLower(lower, path);
  return { link, lowers, committed: isCommitted(home, id) };
}

function parseLink(path: ByteString): LinkName {
  const text = readSmall(path);
  if (text === undefined) throw tampered(path, 'there is no such file');
  if (!LINK.test(text)) throw tampered(path, `${quote(text)} is not 26 characters of A-Z2-7`);
  return text as string as LinkName;
}

/** `l/LINK:l/LINK…`, at least one; `path` is for the error. */
export function parseLower(text: ByteString, path: ByteString): LinkName[] {
  return text.split(':').map((part) => {
    const link = part.slice(2);
    if (!part.startsWith('l/') || !LINK.test(link)) {
      throw tampered(path, `${quote(part as ByteString)} is not "l/" and 26 characters of A-Z2-7`);
    }
    return link as LinkName;
  });
}

export function formatLower(lowers: readonly LinkName[]): string {
  return lowers.map((link) => `l/${link}`).join(':');
}

/** The layer that `l/LINK` leads to, with its `diff` there. A lost link or diff is `corrupt`. */
export function resolveLink(home: ByteString, link: LinkName): LayerId {
  const path = `${home}/l/${link}` as ByteString;
  const target = readlinkat(AT_FDCWD, path, ENOENT, EINVAL);
  if (target === undefined) throw tampered(path, 'there is no such symbolic link');
  const id = /^\.\.\/([^/]+)\/diff$/s.exec(target)?.[1] as ByteString | undefined;
  if (id === undefined || !isLayerId(id)) throw tampered(path, `it leads to ${quote(target)}, which is no layer`);
  const { diff } = pathsOf(home, id as string as LayerId);
  if (!isDirectoryAt(diff)) throw tampered(path, `it leads to ${quote(diff)}, which is not there`);
  return id as string as LayerId;
}

/** What a new layer stands on. */
export interface Below {
  readonly id: LayerId;
  readonly layer: OverlayLayer;
}

/** Who the new layer's directories belong to, and whether it is to be written to as it is; else an archive says what its root is like. */
export interface NewLayer {
  readonly owner: Owner;
  readonly writable: boolean;
}

/**
 * Makes a whole layer: under a temporary name, its link, then the rename into place, and `committed` in the parent
 * last. On failure nothing of it is left. The caller has the lock of `id` and knows that it is absent.
 */
export function makeLayer(
  home: ByteString,
  id: LayerId,
  below: Below | undefined,
  { owner, writable }: NewLayer,
): void {
  const us = process.geteuid?.() ?? 0;
  const temporary = temporaryName();
  const dir = `${home}/${temporary}`;
  const at = (name: string): ByteString => `${dir}/${name}` as ByteString;
  let link: LinkName | undefined;
  let name: ByteString = temporary;
  try {
    makeDirectory(dir as ByteString, 0o710, us, owner.gid);
    // Overlay shows the root of the top layer: the parent's own root must go on being seen.
    const shown = below === undefined ? undefined : pathsOf(home, below.id).diff;
    const root = shown === undefined ? undefined : lstatat(AT_FDCWD, shown);
    makeDirectory(at('diff'), (root?.mode ?? 0o755) & 0o7777, root?.uid ?? owner.uid, root?.gid ?? owner.gid);
    // A mode with an access list is its mask: alone it would give the group what others were given. What a directory
    // passes on stays behind, or what an archive makes in it would get it.
    const attributes =
      shown !== undefined && writable ? xattrsOf(shown, (one) => keepXattr(one) && one !== ACL_DEFAULT) : [];
    for (const [one, value] of attributes) lsetxattr(at('diff'), one, value);
    link = makeLink(home, id);
    makeFile(at('link'), Buffer.from(link, 'latin1'), 0o644);
    if (below !== undefined) {
      makeDirectory(at('work'), 0o700, owner.uid, owner.gid);
      const lower = formatLower([below.layer.link, ...below.layer.lowers]);
      makeFile(at('lower'), Buffer.from(lower, 'latin1'), 0o644);
    }
    renameat2(AT_FDCWD, dir as ByteString, AT_FDCWD, pathsOf(home, id).layer, RENAME_NOREPLACE);
    name = id as string as ByteString;
    if (below !== undefined) commitLayer(home, below.id);
  } catch (error) {
    if (link !== undefined) unlinkat(AT_FDCWD, `${home}/l/${link}` as ByteString, 0, ENOENT);
    withDirectory(home, (fd) => removeTree(fd, name));
    throw error;
  }
}

function makeLink(home: ByteString, id: LayerId): LinkName {
  for (;;) {
    const link = Array.from(randomBytes(26), (byte) => LINK_ALPHABET[byte & 31]).join('') as LinkName;
    const target = `../${id}/diff` as ByteString;
    if (symlinkat(target, AT_FDCWD, `${home}/l/${link}` as ByteString, EEXIST) === 0) return link;
  }
}

function committedPath(home: ByteString, id: LayerId): ByteString {
  return `${pathsOf(home, id).layer}/committed` as ByteString;
}

export function isCommitted(home: ByteString, id: LayerId): boolean {
  return exists(committedPath(home, id));
}

/** Marks a layer as read-only from now on. */
export function commitLayer(home: ByteString, id: LayerId): void {
  const path = committedPath(home, id);
  if (!exists(path)) makeFile(path, Buffer.alloc(0), 0o600, EEXIST);
}

/**
 * Takes the short name of `id` away, whose directory is now `layer`; a `link` that cannot be read, or names another
 * layer's, leaves `l/` as it is.
 */
export function dropLink(home: ByteString, id: LayerId, layer: ByteString): void {
  const link = readSmallOrNothing(`${layer}/link` as ByteString);
  if (!LINK.test(link)) return;
  const path = `${home}/l/${link}` as ByteString;
  if (readlinkat(AT_FDCWD, path, ENOENT, EINVAL) === `../${id}/diff`) unlinkat(AT_FDCWD, path, 0, ENOENT);
}

/** Removes the names in `l/` that no layer calls its own: what a kill between a link and its layer leaves. */
export function sweepLinks(home: ByteString): void {
  for (const name of listNames(`${home}/l` as ByteString)) dropIdleLink(home, name);
}

/** As `sweepLinks`, for the name of a layer that was set aside: who did that may have been killed before `dropLink`. */
export function dropLinkOfAside(home: ByteString, aside: ByteString): void {
  dropIdleLink(home, readSmallOrNothing(`${aside}/link` as ByteString));
}

function dropIdleLink(home: ByteString, name: string): void {
  const path = `${home}/l/${name}` as ByteString;
  const target = LINK.test(name) ? readlinkat(AT_FDCWD, path, ENOENT, EINVAL) : undefined;
  const id = /^\.\.\/([^/]+)\/diff$/s.exec(target ?? '')?.[1] as ByteString | undefined;
  if (id === undefined || !isLayerId(id)) return; // not of our making: left to whoever made it
  if (readSmallOrNothing(`${home}/${parseLayerId(id)}/link` as ByteString) !== name)
    unlinkat(AT_FDCWD, path, 0, ENOENT);
}
