import { writeSync } from 'node:fs';
import { type ByteString, quote } from '../base/bytes.ts';
import { type IdMaps, toHost } from '../base/id-map.ts';
import { parseWhiteout } from '../fs/whiteouts.ts';
import { keepXattr } from '../fs/xattrs.ts';
import {
  close,
  fchmod,
  fchmodat,
  fchown,
  fstat,
  ftruncate,
  futimens,
  lchownat,
  linkat,
  lstatat,
  mknodat,
  O_CREAT,
  O_DIRECTORY,
  O_EXCL,
  O_NOFOLLOW,
  O_PATH,
  O_RDONLY,
  O_WRONLY,
  openat,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFMT,
  symlinkat,
  unlinkat,
  utimensat,
} from '../linux/inode.ts';
import { EEXIST, EINVAL, ENAMETOOLONG, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM } from '../linux/libc.ts';
import { flistxattr, fremovexattr, fsetxattr } from '../linux/xattr.ts';
import type { TarEntry } from '../tar/types.ts';
import { isWhiteoutNode, type LayerDirectory, LayerTree, type Place, refusal } from './layer-tree.ts';
import { baseName, cleanName, joinPath, parentPath } from './names.ts';
import { Notes } from './notes.ts';

// Unpacks one layer into an empty directory, entry by entry, from inside the jail. Deletions take overlayfs' form. What
// needs the layers below (implied directories, links to their files, whiteouts of nothing) is only remembered here and
// settled at the end by `fix-ups.ts`. The readings where unpackers differ are those of docs/security.md.

/** A file that stands in for a lower layer's until the fix-ups fill it, so that links to it can be made at once. */
export interface Placeholder {
  readonly path: ByteString;
  readonly ino: number;
  /** Paths of this layer that were linked to it. */
  readonly names: ByteString[];
}

/** Where the payload of the entry that was just given goes. */
export interface Kept {
  /** The file's path in the layer, without symlinks. */
  readonly path: ByteString;
}

const DEFAULT_ACL = 'system.posix_acl_default' as ByteString;

export class LayerApplier implements Disposable {
  readonly tree: LayerTree;
  readonly placeholders: Map<ByteString, Placeholder> = new Map();
  readonly notes: Notes = new Notes();
  /** Sum of the sizes of non-directories, links once; undefined once something was replaced. */
  sizeBytes: number | undefined = 0;
  entries = 0;
  /** A payload that is in no file of the tree: the first entry's name. */
  unkept: ByteString | undefined;
  readonly #ids: IdMaps;
  #file: { readonly fd: number; readonly entry: TarEntry; extent: number; at: number } | undefined;

  /** `root`: the empty directory, as this thread sees it. */
  constructor(root: ByteString, ids: IdMaps) {
    this.tree = new LayerTree(root);
    this.#ids = ids;
  }

  /** Takes one entry; answers where its payload goes, or undefined where it has none or is left out. */
  entry(entry: TarEntry): Kept | undefined {
    this.entries++;
    const kept = this.#entry(entry);
    if (kept === undefined && entry.type === 'file' && entry.sizeBytes > 0) this.unkept ??= entry.name;
    return kept;
  }

  #entry(entry: TarEntry): Kept | undefined {
    if (entry.type === 'skipped') {
      this.notes.add('left out, an archive label or the like', entry.name);
      return undefined;
    }
    const path = cleanName(entry.name);
    const above = this.#marksAbove(path, entry.name);
    if (above === 'bookkeeping') return undefined;
    if (path === '') {
      if (entry.type !== 'directory') throw refusal(entry.name, 'the root of a layer is a directory');
      this.#directory(this.tree.directories.get(path) as LayerDirectory, { fd: this.tree.root, path }, path, entry);
      return undefined;
    }
    const mark = parseWhiteout(baseName(path));
    if (mark !== undefined) return this.#mark(mark, path, entry);
    const place = this.tree.directory(parentPath(path));
    const name = baseName(path);
    switch (entry.type) {
      case 'directory':
        this.#directory(this.tree.listDirectory(place, name), place, name, entry);
        return undefined;
      case 'file':
        return this.#create(place, name, entry);
      case 'hardlink':
        this.#link(place, name, entry);
        return undefined;
      case 'symlink':
        this.#again(place, name, () => this.#symlink(place, name, entry));
        this.#finishNode(place, name, entry);
        this.#count(entry.linkName.length);
        return undefined;
      default:
        this.#special(place, name, entry);
        return undefined;
    }
  }

  /** Whether a directory on the way is aufs bookkeeping; one that is a whiteout refuses the archive. */
  #marksAbove(path: ByteString, name: ByteString): 'bookkeeping' | undefined {
    if (!path.includes('.wh.')) return undefined;
    for (const part of parentPath(path).split('/') as ByteString[]) {
      const mark = parseWhiteout(part);
      if (mark === undefined) continue;
      if (mark.kind === 'bookkeeping') return 'bookkeeping';
      throw refusal(name, 'it lies below a whiteout');
    }
    return undefined;
  }

  #mark(mark: NonNullable<ReturnType<typeof parseWhiteout>>, path: ByteString, entry: TarEntry): undefined {
    if (mark.kind === 'bookkeeping') return;
    if (mark.kind === 'refused') throw refusal(entry.name, 'a whiteout of ".", ".." or of nothing');
    const above = parentPath(path);
    const place = this.tree.directory(above);
    const directory = this.tree.directories.get(place.path) as LayerDirectory;
    if (mark.kind === 'opaque') {
      directory.opaque = true;
      return;
    }
    if (mknodat(place.fd, mark.of, S_IFCHR, 0, 0, EEXIST) !== -EEXIST) {
      directory.whiteouts = true;
      return;
    }
    // An entry of this layer stays; only what lies below it is hidden.
    const stat = lstatat(place.fd, mark.of);
    if (stat === undefined || isWhiteoutNode(stat)) return;
    const here = joinPath(place.path, mark.of);
    if ((stat.mode & S_IFMT) === S_IFDIR) {
      const hidden = this.tree.directories.get(here);
      if (hidden !== undefined) hidden.reborn = true;
    } else if (this.placeholders.get(here)?.ino === stat.ino) {
      unlinkat(place.fd, mark.of); // no entry made it: it only stands in for the file that is now deleted
      mknodat(place.fd, mark.of, S_IFCHR, 0, 0);
      directory.whiteouts = true;
    }
  }

  #directory(directory: LayerDirectory, place: Place, name: ByteString, entry: TarEntry): void {
    const fd =
      name === ''
        ? openat(place.fd, '.' as ByteString, O_RDONLY | O_DIRECTORY)
        : openat(place.fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    try {
      const again = directory.mtimeNs !== undefined;
      directory.mtimeNs = entry.mtimeNs;
      directory.implied = false;
      directory.defaultAcl = undefined;
      fchown(fd, toHost(entry.uid, this.#ids.uid, 'user'), toHost(entry.gid, this.#ids.gid, 'group'));
      fchmod(fd, entry.mode);
      if (again) for (const known of flistxattr(fd)) if (keepXattr(known)) fremovexattr(fd, known);
      for (const [key, value] of entry.xattrs) {
        if (key === DEFAULT_ACL) directory.defaultAcl = value;
        else this.#xattr(fd, key, value, entry.name);
      }
    } finally {
      close(fd);
    }
  }

  #create(place: Place, name: ByteString, entry: TarEntry): Kept {
    const flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    let fd = openat(place.fd, name, flags, entry.mode & 0o777, EEXIST);
    if (fd < 0) {
      this.#clear(place, name);
      fd = openat(place.fd, name, flags, entry.mode & 0o777);
    }
    this.#file = { fd, entry, extent: 0, at: 0 };
    this.#count(entry.sizeBytes);
    return { path: joinPath(place.path, name) };
  }

  /** Payload of the file that `entry` took last. */
  data(bytes: Uint8Array): void {
    const file = this.#file;
    if (file === undefined) return; // the payload of an entry that is left out
    const extents = file.entry.sparse;
    if (extents === undefined) {
      for (let at = 0; at < bytes.length; ) at += writeSync(file.fd, bytes, at, bytes.length - at);
      return;
    }
    for (let at = 0; at < bytes.length; ) {
      const extent = extents[file.extent];
      if (extent === undefined) throw refusal(file.entry.name, 'more payload than its sparse map has room for');
      const n = Math.min(bytes.length - at, extent.length - file.at);
      const done = n === 0 ? 0 : writeSync(file.fd, bytes, at, n, extent.offset + file.at);
      at += done;
      file.at += done;
      if (file.at === extent.length) {
        file.extent++;
        file.at = 0;
      }
    }
  }

  /** The payload of the file is complete. */
  end(): void {
    const file = this.#file;
    if (file === undefined) return;
    this.#file = undefined;
    const { fd, entry } = file;
    try {
      if (entry.sparse !== undefined) ftruncate(fd, entry.sizeBytes);
      fchown(fd, toHost(entry.uid, this.#ids.uid, 'user'), toHost(entry.gid, this.#ids.gid, 'group'));
      if (entry.mode > 0o777) fchmod(fd, entry.mode); // set-id bits do not survive a change of owner
      for (const [key, value] of entry.xattrs) this.#xattr(fd, key, value, entry.name);
      futimens(fd, entry.mtimeNs, entry.mtimeNs);
      if (isUnusualTime(entry.mtimeNs)) this.#noteTime(fstat(fd).mtimeNs, entry);
    } finally {
      close(fd);
    }
  }

  #link(place: Place, name: ByteString, entry: TarEntry): void {
    const targetPath = cleanName(entry.linkName);
    if (targetPath === '') throw refusal(entry.name, 'a hard link to the root of the layer');
    if (this.#marksAbove(targetPath, entry.name) === 'bookkeeping') return;
    const mark = parseWhiteout(baseName(targetPath));
    if (mark?.kind === 'bookkeeping') return;
    if (mark !== undefined) throw refusal(entry.name, `a hard link to the whiteout ${quote(targetPath)}`);
    const here = joinPath(place.path, name);
    const own = openat(place.fd, '.' as ByteString, O_PATH | O_DIRECTORY);
    try {
      const target = this.tree.directory(parentPath(targetPath));
      const targetName = baseName(targetPath);
      const there = joinPath(target.path, targetName);
      if (there === here) throw refusal(entry.name, 'a hard link to itself');
      const stat = lstatat(target.fd, targetName, ENOENT, ENOTDIR);
      if (stat === undefined) this.#placeholder(target, targetName);
      else if ((stat.mode & S_IFMT) === S_IFDIR) {
        throw refusal(entry.name, `a hard link to the directory ${quote(targetPath)}`);
      } else if (isWhiteoutNode(stat)) {
        throw refusal(entry.name, `a hard link to ${quote(targetPath)}, which the same layer deletes`);
      }
      if (linkat(target.fd, targetName, own, name, 0, EEXIST) === -EEXIST) {
        this.#relink(target.fd, targetName, { fd: own, path: place.path }, name, entry);
      }
      this.placeholders.get(there)?.names.push(here);
    } finally {
      close(own);
    }
  }

  #relink(targetFd: number, targetName: ByteString, place: Place, name: ByteString, entry: TarEntry): void {
    const target = openat(targetFd, '.' as ByteString, O_PATH | O_DIRECTORY); // clearing may close the tree's own
    try {
      this.#clear(place, name);
      if (linkat(target, targetName, place.fd, name, 0, ENOENT) !== 0) {
        throw refusal(entry.name, 'a hard link to what this very entry replaces');
      }
    } finally {
      close(target);
    }
  }

  /** An empty file where a lower layer's file is linked to; see `fix-ups.ts`. */
  #placeholder(place: Place, name: ByteString): void {
    const fd = openat(place.fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0);
    const path = joinPath(place.path, name);
    this.placeholders.set(path, { path, ino: fstat(fd).ino, names: [] });
    close(fd);
    this.sizeBytes = undefined;
  }

  #symlink(place: Place, name: ByteString, entry: TarEntry): number {
    const result = symlinkat(entry.linkName, place.fd, name, EEXIST, ENOENT, ENAMETOOLONG);
    if (result === -ENOENT || result === -ENAMETOOLONG) {
      const length = entry.linkName.length;
      throw refusal(entry.name, `the target of a symbolic link has 1 to 4095 bytes, this one ${length}`);
    }
    return result;
  }

  #special(place: Place, name: ByteString, entry: TarEntry): void {
    const type = entry.type === 'fifo' ? S_IFIFO : entry.type === 'block-device' ? S_IFBLK : S_IFCHR;
    if (type === S_IFCHR && entry.devMajor === 0 && entry.devMinor === 0) {
      this.notes.add('left out, a device 0:0 would be a deletion', entry.name);
      return;
    }
    const [major, minor] = type === S_IFIFO ? [0, 0] : [entry.devMajor, entry.devMinor];
    this.#again(place, name, () => mknodat(place.fd, name, type | (entry.mode & 0o777), major, minor, EEXIST));
    this.#finishNode(place, name, entry);
  }

  /** Makes something; where something else is in the way, takes that away and makes it then. */
  #again(place: Place, name: ByteString, make: () => number): void {
    if (make() !== -EEXIST) return;
    this.#clear(place, name);
    make();
  }

  #clear(place: Place, name: ByteString): void {
    this.tree.clear(place, name);
    if (this.tree.overwritten !== undefined) this.sizeBytes = undefined;
  }

  /** Owner, mode and time of what is neither file nor directory. */
  #finishNode(place: Place, name: ByteString, entry: TarEntry): void {
    const uid = toHost(entry.uid, this.#ids.uid, 'user');
    lchownat(place.fd, name, uid, toHost(entry.gid, this.#ids.gid, 'group'));
    if (entry.type !== 'symlink') fchmodat(place.fd, name, entry.mode); // chmod follows symlinks, but this is none
    for (const key of entry.xattrs.keys()) {
      if (keepXattr(key))
        this.notes.add(`attribute ${quote(key)} left out, only files and directories take it`, entry.name);
      else this.#refusedXattr(key, entry.name);
    }
    utimensat(place.fd, name, entry.mtimeNs, entry.mtimeNs);
    if (isUnusualTime(entry.mtimeNs)) this.#noteTime(lstatat(place.fd, name)?.mtimeNs ?? 0n, entry);
  }

  #xattr(fd: number, key: ByteString, value: Buffer, name: ByteString): void {
    if (!keepXattr(key)) {
      this.#refusedXattr(key, name);
      return;
    }
    const result = fsetxattr(fd, key, value, EOPNOTSUPP, EPERM, EINVAL);
    if (result < 0) this.notes.add(`attribute ${quote(key)} refused by the filesystem`, name);
  }

  #refusedXattr(key: ByteString, name: ByteString): void {
    this.notes.add(`attribute ${quote(key)} left out, layers do not carry it`, name);
  }

  #noteTime(actual: bigint, entry: TarEntry): void {
    if (actual !== entry.mtimeNs) this.notes.add('modification time beyond what the filesystem holds', entry.name);
  }

  #count(bytes: number): void {
    if (this.sizeBytes !== undefined) this.sizeBytes += bytes;
  }

  /** Closes what is open; the tree stays as it is. */
  [Symbol.dispose](): void {
    if (this.#file !== undefined) close(this.#file.fd);
    this.#file = undefined;
    this.tree[Symbol.dispose]();
  }
}

/** Beyond 1970 to 2038: what some filesystems cannot hold. */
function isUnusualTime(ns: bigint): boolean {
  return ns < 0n || ns > 0x7fff_ffffn * 1_000_000_000n;
}
