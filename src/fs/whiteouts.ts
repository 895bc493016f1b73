import type { ByteString } from '../base/bytes.ts';
import { type BriefStat, fstat, futimens, lstatat, mknodat, S_IFCHR, S_IFSOCK, type Stat } from '../linux/inode.ts';
import { EEXIST, ENOENT } from '../linux/libc.ts';
import { fgetxattr, flistxattr, fsetxattr } from '../linux/xattr.ts';
import { allocatedBytes, isDirectory, isFile, isSocket, isWhiteout } from './stat.ts';

/** The value of the attribute that makes a directory opaque. */
export const OPAQUE = 'y';

/** How a layer on disk spells deletions. `none`: it has none, being a full copy. */
export type WhiteoutStyle = 'none' | 'overlay' | 'overlay-userxattr';

/** In archives (AUFS spelling): `.wh.NAME` deletes NAME. */
export const WHITEOUT_PREFIX = '.wh.' as ByteString;
/** In archives: the directory that holds it shows nothing of the layers below. */
export const OPAQUE_MARKER = '.wh..wh..opq' as ByteString;
const BOOKKEEPING_PREFIX = '.wh..wh.';

/** What a name in an archive says about whiteouts. */
export type Whiteout =
  | { readonly kind: 'whiteout'; readonly of: ByteString }
  | { readonly kind: 'opaque' }
  /** aufs's own: ignored, with all below it. */
  | { readonly kind: 'bookkeeping' }
  /** `.wh.`, `.wh..`, `.wh...`: would delete nothing, the directory itself, or its parent. */
  | { readonly kind: 'refused' };

/** Reads one path component; undefined for an ordinary name. */
export function parseWhiteout(name: ByteString): Whiteout | undefined {
  if (!name.startsWith(WHITEOUT_PREFIX)) return undefined;
  if (name === OPAQUE_MARKER) return { kind: 'opaque' };
  if (name.startsWith(BOOKKEEPING_PREFIX)) return { kind: 'bookkeeping' };
  const of = name.slice(WHITEOUT_PREFIX.length) as ByteString;
  return of === '' || of === '.' || of === '..' ? { kind: 'refused' } : { kind: 'whiteout', of };
}

/** The prefix of overlay's own attributes in a style that has them. */
export function overlayPrefix(style: WhiteoutStyle): string | undefined {
  if (style === 'none') return undefined;
  return style === 'overlay' ? 'trusted.overlay.' : 'user.overlay.';
}

/** What overlay's attributes say of a directory or file. */
export interface OverlayMarks {
  readonly opaque: boolean;
  /** `opaque=x`: empty files in it that have `overlay.whiteout` are whiteouts (kernel ≥ 6.7). */
  readonly holdsXattrWhiteouts: boolean;
  /** The file or directory takes content from another path below. */
  readonly redirect: boolean;
  readonly metacopy: boolean;
  readonly whiteout: boolean;
}

const NO_MARKS: OverlayMarks = {
  opaque: false,
  holdsXattrWhiteouts: false,
  redirect: false,
  metacopy: false,
  whiteout: false,
};

/** Reads the marks from an open descriptor (not O_PATH), whose attributes may be known by name. */
export function overlayMarks(fd: number, style: WhiteoutStyle, attributes?: readonly ByteString[]): OverlayMarks {
  const prefix = overlayPrefix(style);
  if (prefix === undefined) return NO_MARKS;
  const names = (attributes ?? flistxattr(fd)).filter((name) => name.startsWith(prefix) && isMarked([name]));
  if (names.length === 0) return NO_MARKS;
  const has = (mark: string): boolean => names.includes(`${prefix}${mark}` as ByteString);
  const opaque = has('opaque') ? fgetxattr(fd, `${prefix}opaque` as ByteString)?.toString('latin1') : undefined;
  return {
    opaque: opaque === OPAQUE,
    holdsXattrWhiteouts: opaque === 'x',
    redirect: has('redirect'),
    metacopy: has('metacopy'),
    whiteout: has('whiteout'),
  };
}

/**
 * Whether overlay shows, under a name of an upper directory that is itself shown as it is, just what lies there: nothing
 * for a whiteout, else an inode whose fields are these, but for number and device. Those with several names are
 * overlay's to count; an empty file may be a whiteout by attribute, and one with fewer blocks than bytes have its data
 * elsewhere (metacopy).
 */
export function showsItself(stat: BriefStat): boolean {
  if (isDirectory(stat)) return true;
  if (stat.nlink !== 1) return false;
  return !isFile(stat) || (stat.sizeBytes > 0 && allocatedBytes(stat) >= stat.sizeBytes);
}

/** Whether one of a file's attributes (names as flistxattr gives them) may make overlay show something else than the file. */
export function isMarked(names: readonly ByteString[]): boolean {
  return names.some((name) => MARK.test(name));
}

/** Whether a directory (open, not O_PATH) shows another one, in whatever style. */
export function isRedirected(fd: number): boolean {
  return flistxattr(fd).some((name) => /^(?:trusted|user)\.overlay\.redirect$/.test(name));
}

/** What a copied-up file remembers of where it came from changes nothing that is shown. */
const MARK = /^(?:trusted|user)\.overlay\.(?!origin$)/;

/** How a layer that is being made spells deletions: as overlay reads them, or for `mergeLayer` alone. */
export type MarkStyle = 'overlay' | 'plain';

/** The spelling of deletions in a layer that is being made. */
export interface Marks {
  isWhiteout(stat: Stat): boolean;
  /** Makes a whiteout; answers as mknodat. EEXIST is an error where it is not tolerated. */
  whiteOut(dirFd: number, name: ByteString, ...tolerated: number[]): number;
  /** From now on the directory shows nothing of the layers below; `fd` is the directory, readable. */
  makeOpaque(fd: number): void;
  isOpaque(fd: number): boolean;
}

const MARKS: Readonly<Record<MarkStyle, Marks>> = {
  /** kernel: overlayfs.rst, "whiteouts and opaque directories". */
  overlay: {
    isWhiteout,
    whiteOut: (dirFd, name, ...tolerated) => mknodat(dirFd, name, S_IFCHR, 0, 0, ...tolerated),
    makeOpaque: (fd) => void fsetxattr(fd, 'trusted.overlay.opaque' as ByteString, Buffer.from(OPAQUE)),
    isOpaque: (fd) => overlayMarks(fd, 'overlay').opaque,
  },
  /**
   * Sockets, which no archive can hold and anybody may make on any filesystem: overlay's marks want rights that root of
   * a container lacks, and overlayfs itself, a container's own root, takes neither.
   */
  plain: {
    isWhiteout: isSocket,
    whiteOut: (dirFd, name, ...tolerated) => mknodat(dirFd, name, S_IFSOCK, 0, 0, ...tolerated),
    makeOpaque(fd) {
      const { atimeNs, mtimeNs } = fstat(fd);
      mknodat(fd, OPAQUE_MARKER, S_IFSOCK, 0, 0, EEXIST);
      futimens(fd, atimeNs, mtimeNs); // the directory is finished: only its mark is new
    },
    isOpaque: (fd) => lstatat(fd, OPAQUE_MARKER, ENOENT) !== undefined,
  },
};

export function marksOf(style: MarkStyle): Marks {
  return MARKS[style];
}
