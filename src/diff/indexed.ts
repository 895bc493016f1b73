import { type ByteString, joinBytes, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { inodeKey, isDirectory, isWhiteout, sameInode } from '../fs/stat.ts';
import { walkTree } from '../fs/walk.ts';
import { overlayPrefix, type WhiteoutStyle } from '../fs/whiteouts.ts';
import {
  AT_FDCWD,
  close,
  fstat,
  lstatat,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  openat,
  openByHandle,
  readDirectory,
  type Stat,
} from '../linux/inode.ts';
import { EINVAL, ENAMETOOLONG, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM, ESTALE } from '../linux/libc.ts';
import { lgetxattr } from '../linux/xattr.ts';

// A file with several names below that is changed under `index=on` is copied up once, and all its names show that copy:
// `work/index` has one more name of it. Only a mount with its work directory looks there, and such a mount writes, so
// it is not ours to make: a view without an index shows, under names that are not in the upper, the file below.

/** The layers of an overlay that may have been written so. */
export interface IndexPlace {
  readonly work: ByteString;
  readonly upper: ByteString;
  readonly lowers: readonly ByteString[];
  readonly style: Exclude<WhiteoutStyle, 'none'>;
}

/** A copy that names outside of the upper may show. */
export interface IndexedFile {
  /** In `index`. */
  readonly name: ByteString;
  readonly stat: Stat;
  /** What it was made of. */
  readonly origin: Stat;
  /** Its data lie below. */
  readonly metacopy: boolean;
}

/** What is in the index, and what of it shows where. */
export interface Indexed {
  readonly index: ByteString;
  /** Of names of the view that are not in the upper; with what the view shows there without the index. */
  readonly strays: ReadonlyMap<IndexedFile, readonly Stray[]>;
  /** By `inodeKey` of copies that have strays: a name in the upper, as a path of the view. */
  readonly inUpper: ReadonlyMap<string, ByteString>;
}

export interface Stray {
  readonly path: ByteString;
  readonly stat: Stat;
}

const REMEDY = 'Mount both sides, and compare those trees (as binds, with --walk)';

/** Without a way to say what the mount shows. */
export function refuseIndexed(index: ByteString): StorageError {
  return new StorageError(
    'unsupported',
    `Cannot read the upper directory: under index=on a file was changed that has other names in the layers below (${quote(index)} keeps it), which only a mount with that directory shows. ${REMEDY}`,
    { path: index, remedy: REMEDY },
  );
}

/**
 * What the index says of a mounted `view` that has none; undefined where it shows just that. `unsupported` where it
 * cannot be told which files below were copied (a filesystem that is gone; a thread without CAP_DAC_READ_SEARCH).
 */
export function readIndex(place: IndexPlace, view: ByteString): Indexed | undefined {
  const index = joinBytes(place.work, 'index' as ByteString);
  const copies = copiesIn(index, place);
  if (copies.size === 0) return undefined;
  const strays = new Map<IndexedFile, Stray[]>();
  for (const { path, stat } of walkTree(view)) {
    const alike = isDirectory(stat) ? undefined : copies.get(copiedKey(stat));
    const copy = alike && copyOf(alike, { path, stat }, place, index);
    if (copy === undefined) continue;
    const others = strays.get(copy);
    if (others === undefined) strays.set(copy, [{ path, stat }]);
    else others.push({ path, stat });
  }
  if (strays.size === 0) return undefined;
  const wanted = new Set([...strays.keys()].map(({ stat }) => inodeKey(stat)));
  const inUpper = new Map<string, ByteString>();
  for (const { path, stat } of walkTree(place.upper)) {
    const key = inodeKey(stat);
    if (wanted.has(key)) inUpper.set(key, path);
  }
  return { index, strays, inUpper };
}

/**
 * A file below, whatever overlay says of its filesystem: with layers on several ones a view has numbers of devices of its
 * own, and marks the high bits of inode numbers (overlayfs.rst, "Inode properties", xino). Such files may look alike.
 */
function copiedKey({ inoLow, ctimeNs, mtimeNs, sizeBytes, mode, uid, gid }: Stat): string {
  return [inoLow, ctimeNs, mtimeNs, sizeBytes, mode, uid, gid].join(':');
}

/** Which of the copies whose origins look like a file of the view was made of that; undefined: none. */
function copyOf(
  alike: readonly IndexedFile[],
  { path, stat }: Stray,
  { lowers }: IndexPlace,
  index: ByteString,
): IndexedFile | undefined {
  for (const lower of lowers) {
    const own = lstatat(AT_FDCWD, `${lower}${path}` as ByteString, ENOENT, ENOTDIR, ENAMETOOLONG);
    if (own === undefined || copiedKey(own) !== copiedKey(stat)) continue;
    return alike.find(({ origin }) => sameInode(origin, own));
  }
  if (alike.length > 1) throw refuseIndexed(index); // in a directory that was moved
  return alike[0];
}

/** By `copiedKey` of the file that each was made of. */
function copiesIn(index: ByteString, { style, lowers }: IndexPlace): ReadonlyMap<string, readonly IndexedFile[]> {
  const copies = new Map<string, IndexedFile[]>();
  const fd = openat(AT_FDCWD, index, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, ENOENT, ENOTDIR);
  if (fd < 0) return copies;
  try {
    const attribute = (path: ByteString, name: string): Buffer | undefined =>
      lgetxattr(path, `${overlayPrefix(style)}${name}` as ByteString);
    for (const { name } of readDirectory(fd, index)) {
      const stat = lstatat(fd, name, ENOENT);
      if (stat === undefined || isDirectory(stat) || isWhiteout(stat)) continue;
      const path = joinBytes(index, name);
      // How many names the mount shows more than the copy has (fs/overlayfs/inode.c, ovl_set_nlink_common); the one in
      // the index counts as one that it has.
      const more = attribute(path, 'nlink')?.toString('latin1');
      if (more !== undefined && /^U-[1-9]/.test(more)) continue;
      const origin = originOf(attribute(path, 'origin'), lowers);
      if (origin === undefined) throw refuseIndexed(index);
      const key = copiedKey(origin);
      const copy = { name, stat, origin, metacopy: attribute(path, 'metacopy') !== undefined };
      copies.set(key, [...(copies.get(key) ?? []), copy]);
    }
    return copies;
  } finally {
    close(fd);
  }
}

// `overlay.origin` (fs/overlayfs/overlayfs.h, struct ovl_fb): version, magic, length of all, flags, type of the handle,
// 16 bytes of the filesystem's UUID, the handle.
const MAGIC = 0xfb;
const BIG_ENDIAN = 1;
const HANDLE_AT = 21;

/** What a file was copied from; undefined where not exactly one filesystem of the layers below has that. */
function originOf(value: Buffer | undefined, lowers: readonly ByteString[]): Stat | undefined {
  if (value === undefined || value.length <= HANDLE_AT || value[0] !== 0 || value[1] !== MAGIC) return undefined;
  if (value[2] !== value.length || ((value[3] as number) & BIG_ENDIAN) !== 0) return undefined;
  const found = new Map<string, Stat>();
  for (const lower of lowers) {
    const at = openat(AT_FDCWD, lower, O_RDONLY | O_DIRECTORY);
    try {
      const tolerated = [ESTALE, EINVAL, EOPNOTSUPP, EPERM, ENOENT];
      const handle = value.subarray(HANDLE_AT);
      const fd = openByHandle(at, value[4] as number, handle, O_PATH | O_NOFOLLOW, ...tolerated);
      if (fd < 0) continue;
      try {
        const stat = fstat(fd);
        found.set(inodeKey(stat), stat);
      } finally {
        close(fd);
      }
    } finally {
      close(at);
    }
  }
  return found.size === 1 ? [...found.values()][0] : undefined;
}
