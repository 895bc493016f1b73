import type { ByteString } from '../base/bytes.ts';
import type { IdMaps } from '../base/id-map.ts';
import { ENODATA } from '../linux/libc.ts';
import { fchdir } from '../linux/namespace.ts';
import { fgetxattr, flistxattr, lgetxattr, llistxattr, lremovexattr, lsetxattr } from '../linux/xattr.ts';

/** Extended attributes, name to value. */
export type Xattrs = ReadonlyMap<ByteString, Buffer>;

/**
 * A path by which a call that takes only paths (the `l*xattr` family: f*xattr refuses O_PATH descriptors, EBADF)
 * reaches the entry `name` of an open directory, never through a symlink at the end.
 */
export type EntryPath = (dirFd: number, name: ByteString) => ByteString;

/** For threads that see /proc. About 4 µs a call more than by descriptor. */
export const viaProc: EntryPath = (dirFd, name) => `/proc/thread-self/fd/${dirFd}/${name}` as ByteString;

/**
 * For jailed threads: /proc is out of reach there, but the working directory may lie outside the jail. Only in a thread
 * that did unshare(CLONE_FS), and that never uses a path relative to its working directory for anything else.
 */
export const viaWorkingDirectory: EntryPath = (dirFd, name) => {
  fchdir(dirFd);
  return `./${name}` as ByteString;
};

export const CAPABILITY = 'security.capability' as ByteString;
export const ACL_ACCESS = 'system.posix_acl_access' as ByteString;
/** What names that are made in a directory get. */
export const ACL_DEFAULT = 'system.posix_acl_default' as ByteString;

/** Whether a layer carries the attribute (driver-behaviour D8): what belongs to one machine or one mount stays behind. */
export function keepXattr(name: ByteString): boolean {
  if (name.startsWith('user.')) return !name.startsWith('user.overlay.') && !name.startsWith('user.fuseoverlayfs.');
  return name === CAPABILITY || name === ACL_ACCESS || name === ACL_DEFAULT;
}

/** Every attribute that the filesystem lists. */
export function everyXattr(_name: ByteString): boolean {
  return true;
}

const NONE: Xattrs = new Map();

/** The attributes of `path` (the symlink itself, if it is one) that `keep` accepts. */
export function xattrsOf(path: ByteString, keep: (name: ByteString) => boolean = keepXattr): Xattrs {
  return collect(llistxattr(path), keep, (name) => lgetxattr(path, name));
}

/** As `xattrsOf`, of an open descriptor (not O_PATH). */
export function xattrsOfFd(fd: number, keep: (name: ByteString) => boolean = keepXattr): Xattrs {
  return xattrsNamed(fd, flistxattr(fd), keep);
}

/** As `xattrsOfFd`, of those that it was found to have. */
export function xattrsNamed(fd: number, names: readonly ByteString[], keep: (name: ByteString) => boolean): Xattrs {
  return collect(names, keep, (name) => fgetxattr(fd, name));
}

function collect(
  names: readonly ByteString[],
  keep: (name: ByteString) => boolean,
  read: (name: ByteString) => Buffer | undefined,
): Xattrs {
  let found: Map<ByteString, Buffer> | undefined;
  for (const name of names) {
    if (!keep(name)) continue;
    const value = read(name);
    if (value === undefined) continue; // removed since it was listed
    found ??= new Map();
    found.set(name, value);
  }
  return found ?? NONE;
}

export function sameXattrs(a: Xattrs, b: Xattrs): boolean {
  if (a.size !== b.size) return false;
  for (const [name, value] of a) if (b.get(name)?.equals(value) !== true) return false;
  return true;
}

/**
 * Makes the attributes that `keep` accepts exactly `wanted`: what is there beside them (an ACL inherited from the parent
 * directory's default, say: acl(5), "Object creation and default ACLs") is removed.
 */
export function replaceXattrs(path: ByteString, wanted: Xattrs, keep: (name: ByteString) => boolean): void {
  for (const name of llistxattr(path)) if (keep(name) && !wanted.has(name)) lremovexattr(path, name, ENODATA);
  for (const [name, value] of wanted) lsetxattr(path, name, value);
}

const ACL_VERSION = 2;
const ACL_USER = 0x02;
const ACL_GROUP = 0x08;

/**
 * The attributes as another id range sees them: named users and groups of POSIX ACLs go through `map` (the kernel keeps
 * them as host ids: include/uapi/linux/posix_acl_xattr.h). Ids that `map` refuses are its error.
 */
export function mapXattrs(
  xattrs: Xattrs,
  ids: IdMaps,
  map: (id: number, ranges: IdMaps['uid'], what: string) => number,
): Xattrs {
  if (xattrs.size === 0 || (ids.uid.length === 0 && ids.gid.length === 0)) return xattrs;
  const mapped = new Map(xattrs);
  for (const name of [ACL_ACCESS, ACL_DEFAULT] as ByteString[]) {
    const value = xattrs.get(name);
    if (value === undefined || value.length < 4 || value.readUInt32LE(0) !== ACL_VERSION) continue;
    const acl = Buffer.from(value);
    for (let at = 4; at + 8 <= acl.length; at += 8) {
      const tag = acl.readUInt16LE(at);
      const id = acl.readUInt32LE(at + 4);
      if (tag === ACL_USER) acl.writeUInt32LE(map(id, ids.uid, 'user'), at + 4);
      else if (tag === ACL_GROUP) acl.writeUInt32LE(map(id, ids.gid, 'group'), at + 4);
    }
    mapped.set(name, acl);
  }
  return mapped;
}
