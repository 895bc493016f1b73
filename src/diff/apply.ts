import { type ByteString, quote } from '../base/bytes.ts';
import { type IdMaps, toHost } from '../base/id-map.ts';
import { isDirectory } from '../fs/stat.ts';
import { type MarkStyle, marksOf, parseWhiteout } from '../fs/whiteouts.ts';
import { ACL_DEFAULT, keepXattr, mapXattrs, viaWorkingDirectory, type Xattrs } from '../fs/xattrs.ts';
import {
  close,
  fchmod,
  fchmodat,
  fchown,
  fstat,
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
  S_IFIFO,
  S_ISGID,
  symlinkat,
  unlinkat,
  utimensat,
} from '../linux/inode.ts';
import { EEXIST, EINVAL, ENAMETOOLONG, ENOENT, EOPNOTSUPP, EPERM, located } from '../linux/libc.ts';
import { flistxattr, fremovexattr, fsetxattr, lsetxattr } from '../linux/xattr.ts';
import type { TarEntry } from '../tar/types.ts';
import { Mark, ROOT_ROW } from './directories.ts';
import { finishDirectories, isUnusualTime, noteTime } from './finish.ts';
import { LayerTree, type Place, refusal } from './layer-tree.ts';
import { baseName, cleanName, joinPath, parentPath } from './names.ts';
import { Notes } from './notes.ts';
import { Owners } from './owners.ts';
import { Payload } from './payload.ts';
import type { Placeholder, Unsettled } from './unsettled.ts';

// Unpacks one layer into an empty directory, entry by entry, from inside the jail. Deletions take overlayfs' form. What
// needs the layers below (implied directories, links to their files, whiteouts of nothing) is only remembered here and
// settled at the end by `fix-ups.ts`. The readings where unpackers differ are those of docs/security.md.

const HERE = '.' as ByteString;

export interface ApplierOptions {
  /** Blocks of zeros take no disk: for what is packed from a tree of this machine, whose files may have had holes. */
  readonly zerosAreHoles?: boolean;
  /** How deletions are spelt. */
  readonly style?: MarkStyle;
}

export class LayerApplier implements Disposable {
  readonly tree: LayerTree;
  readonly placeholders: Placeholder[] = [];
  readonly notes: Notes = new Notes();
  /** Sum of the sizes of non-directories, links once; undefined once something was replaced. */
  sizeBytes: number | undefined = 0;
  entries = 0;
  /** A payload that is in no file of the tree: the first entry's name. */
  unkept: ByteString | undefined;
  readonly #ids: IdMaps;
  readonly #owners: Owners;
  readonly #zerosAreHoles: boolean;
  /** By each of their names. */
  readonly #standIns = new Map<ByteString, Placeholder>();
  #file: Payload | undefined;
  #fileIsOwned = false;

  /** `root`: the empty directory, as this thread sees it. */
  constructor(root: ByteString, ids: IdMaps, options: ApplierOptions = {}) {
    this.tree = new LayerTree(root, marksOf(options.style ?? 'overlay'));
    this.#ids = ids;
    this.#owners = new Owners(ids);
    this.#zerosAreHoles = options.zerosAreHoles ?? false;
  }

  /**
   * Takes one entry; answers the file that its payload goes into, by its path in the layer without symlinks; undefined
   * where it has none or is left out.
   */
  entry(entry: TarEntry): ByteString | undefined {
    this.entries++;
    try {
      const kept = this.#entry(entry);
      if (kept === undefined && entry.type === 'file' && entry.sizeBytes > 0) this.unkept ??= entry.name;
      return kept;
    } catch (error) {
      throw located(error, entry.name); // what it works with are descriptors and names in them
    }
  }

  #entry(entry: TarEntry): ByteString | undefined {
    if (entry.type === 'skipped') {
      this.notes.add('left out, an archive label or the like', entry.name);
      return undefined;
    }
    const path = cleanName(entry.name);
    const above = this.#marksAbove(path, entry.name);
    if (above === 'bookkeeping') return undefined;
    if (path === '') {
      if (entry.type !== 'directory') throw refusal(entry.name, 'the root of a layer is a directory');
      this.#root(entry);
      return undefined;
    }
    const mark = parseWhiteout(baseName(path));
    if (mark !== undefined) return this.#mark(mark, path, entry);
    const place = this.tree.directory(parentPath(path));
    const name = baseName(path);
    switch (entry.type) {
      case 'directory':
        this.#taken(place, name);
        this.#list(place, name, entry);
        return undefined;
      case 'file':
        return this.#create(place, name, entry);
      case 'hardlink':
        this.#link(place, name, entry);
        return undefined;
      case 'symlink':
        this.#taken(place, name);
        this.#again(place, name, () => this.#symlink(place, name, entry));
        this.#finishNode(place, name, entry);
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
    const place = this.tree.directory(parentPath(path), true);
    const { directories } = this.tree;
    if (mark.kind === 'opaque') {
      directories.mark(place.row, Mark.opaque);
      return;
    }
    if (this.tree.marks.whiteOut(place.fd, mark.of, EEXIST) !== -EEXIST) {
      directories.mark(place.row, Mark.whiteouts);
      return;
    }
    // An entry of this layer stays; only what lies below it is hidden.
    const here = joinPath(place.path, mark.of);
    const hidden = directories.child(place.row, mark.of);
    if (hidden !== undefined) directories.mark(hidden, Mark.reborn);
    else if (this.#standIns.get(here)?.path === here) {
      this.#taken(place, mark.of);
      unlinkat(place.fd, mark.of); // no entry made it: it only stands in for the file that is now deleted
      this.tree.marks.whiteOut(place.fd, mark.of);
      directories.mark(place.row, Mark.whiteouts);
    } else this.tree.deleteBelow(place, mark.of);
  }

  #root(entry: TarEntry): void {
    const fd = openat(this.tree.root.fd, HERE, O_RDONLY | O_DIRECTORY);
    try {
      this.#directory({ ...this.tree.root, fd }, entry);
    } finally {
      close(fd);
    }
  }

  #list(place: Place, name: ByteString, entry: TarEntry): void {
    // What mkdir(2) gives is what is wanted: but for set-id bits, one of which it takes from the directory above.
    const isPlain = (place.looks?.mode ?? S_ISGID) < S_ISGID && entry.mode < S_ISGID;
    const { listed, made } = this.tree.listDirectory(place, name, isPlain ? entry.mode : 0o700);
    this.#directory(listed, entry, made ? { owner: this.#owners.given(place, entry), mode: isPlain } : {});
    listed.looks = { gid: this.#owners.gid(entry), mode: entry.mode };
  }

  #directory({ fd, row }: Place, entry: TarEntry, given: { owner?: boolean; mode?: boolean } = {}): void {
    const { directories } = this.tree;
    const again = directories.mtimeNs(row) !== undefined || row === ROOT_ROW;
    directories.setMtimeNs(row, entry.mtimeNs);
    directories.unmark(row, Mark.implied);
    if (again) directories.setDefaultAcl(row, undefined);
    if (given.owner !== true) fchown(fd, this.#owners.uid(entry), this.#owners.gid(entry));
    if (given.mode !== true) fchmod(fd, entry.mode);
    if (again) for (const known of flistxattr(fd)) if (keepXattr(known)) fremovexattr(fd, known);
    for (const [key, value] of this.#xattrs(entry)) {
      if (key === ACL_DEFAULT) directories.setDefaultAcl(row, value);
      else this.#xattr(fd, key, value, entry.name);
    }
  }

  #create(place: Place, name: ByteString, entry: TarEntry): ByteString {
    const flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
    this.#taken(place, name);
    let fd = openat(place.fd, name, flags, entry.mode & 0o777, EEXIST);
    if (fd < 0) {
      this.#clear(place, name);
      fd = openat(place.fd, name, flags, entry.mode & 0o777);
    }
    this.#file = new Payload(fd, entry, this.#zerosAreHoles);
    this.#fileIsOwned = this.#owners.given(place, entry);
    this.#count(entry.sizeBytes);
    return joinPath(place.path, name);
  }

  /** Payload of the file that `entry` took last. */
  data(bytes: Uint8Array): void {
    const file = this.#file;
    if (file === undefined) return; // the payload of an entry that is left out
    try {
      file.write(bytes);
    } catch (error) {
      throw located(error, file.entry.name);
    }
  }

  /** The payload of the file is complete. */
  end(): void {
    const file = this.#file;
    if (file === undefined) return;
    const { fd, entry } = file;
    this.#file = undefined;
    try {
      file.end();
      if (!this.#fileIsOwned) fchown(fd, this.#owners.uid(entry), this.#owners.gid(entry));
      if (entry.mode > 0o777) fchmod(fd, entry.mode); // set-id bits do not survive a change of owner
      for (const [key, value] of this.#xattrs(entry)) this.#xattr(fd, key, value, entry.name);
      futimens(fd, entry.mtimeNs, entry.mtimeNs);
      if (isUnusualTime(entry.mtimeNs)) noteTime(this.notes, fstat(fd).mtimeNs, entry.mtimeNs, entry.name);
    } catch (error) {
      throw located(error, entry.name);
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
    const own = { ...place, fd: openat(place.fd, HERE, O_PATH | O_DIRECTORY) }; // looking the target up may close it
    try {
      const target = this.tree.directory(parentPath(targetPath));
      const targetName = baseName(targetPath);
      const there = joinPath(target.path, targetName);
      if (there === here) throw refusal(entry.name, 'a hard link to itself');
      const stat = lstatat(target.fd, targetName, ENOENT);
      if (stat === undefined) this.#placeholder(target, targetName, entry.name);
      else if (isDirectory(stat)) throw refusal(entry.name, `a hard link to the directory ${quote(targetPath)}`);
      else if (this.tree.marks.isWhiteout(stat)) {
        throw refusal(entry.name, `a hard link to ${quote(targetPath)}, which the same layer deletes`);
      }
      const standIn = this.#standIns.get(there);
      if (linkat(target.fd, targetName, own.fd, name, 0, EEXIST) === -EEXIST) {
        this.#relink(target.fd, targetName, own, name, entry);
      }
      this.#taken(own, name);
      if (standIn === undefined) return;
      standIn.names.add(here);
      this.#standIns.set(here, standIn);
    } finally {
      close(own.fd);
    }
  }

  #relink(targetFd: number, targetName: ByteString, place: Place, name: ByteString, entry: TarEntry): void {
    const target = openat(targetFd, HERE, O_PATH | O_DIRECTORY); // clearing may close the tree's own
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
  #placeholder(place: Place, name: ByteString, wantedBy: ByteString): void {
    const fd = openat(place.fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0);
    const path = joinPath(place.path, name);
    const made = { path, ino: fstat(fd).ino, wantedBy, names: new Set([path]) };
    close(fd);
    this.placeholders.push(made);
    this.#standIns.set(path, made);
    this.sizeBytes = undefined;
  }

  /** An entry is made there: whatever stood in there does so no longer. */
  #taken(place: Place, name: ByteString): void {
    if (this.#standIns.size === 0) return;
    const path = joinPath(place.path, name);
    this.#standIns.get(path)?.names.delete(path);
    this.#standIns.delete(path);
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
    if (type !== S_IFIFO && entry.devMajor === 0 && entry.devMinor === 0) {
      this.notes.add('left out, a device 0:0 would be a deletion', entry.name);
      return;
    }
    this.#taken(place, name);
    const [major, minor] = type === S_IFIFO ? [0, 0] : [entry.devMajor, entry.devMinor];
    const make = (): number => mknodat(place.fd, name, type | (entry.mode & 0o777), major, minor, EEXIST, EPERM);
    if (this.#again(place, name, make) === 0) this.#finishNode(place, name, entry);
    else this.notes.add('left out, devices cannot be made in a user namespace', entry.name);
  }

  /** Makes something; where something else is in the way, takes that away and makes it then. */
  #again(place: Place, name: ByteString, make: () => number): number {
    const made = make();
    if (made !== -EEXIST) return made;
    this.#clear(place, name);
    return make();
  }

  #clear(place: Place, name: ByteString): void {
    if (this.tree.clear(place, name)) this.sizeBytes = undefined;
  }

  /** Owner, mode, attributes and time of what is neither file nor directory. */
  #finishNode(place: Place, name: ByteString, entry: TarEntry): void {
    this.#count(entry.linkName.length);
    if (!this.#owners.given(place, entry)) lchownat(place.fd, name, this.#owners.uid(entry), this.#owners.gid(entry));
    if (entry.type !== 'symlink') fchmodat(place.fd, name, entry.mode); // chmod follows symlinks, but this is none
    for (const [key, value] of this.#xattrs(entry)) {
      const path = viaWorkingDirectory(place.fd, name);
      if (!keepXattr(key)) this.#refusedXattr(key, entry.name);
      else this.#judgeXattr(lsetxattr(path, key, value, EOPNOTSUPP, EPERM, EINVAL), key, entry.name);
    }
    utimensat(place.fd, name, entry.mtimeNs, entry.mtimeNs);
    if (isUnusualTime(entry.mtimeNs))
      noteTime(this.notes, lstatat(place.fd, name)?.mtimeNs ?? 0n, entry.mtimeNs, entry.name);
  }

  #xattrs(entry: TarEntry): Xattrs {
    return entry.xattrs.size === 0 ? entry.xattrs : mapXattrs(entry.xattrs, this.#ids, toHost);
  }

  #xattr(fd: number, key: ByteString, value: Buffer, name: ByteString): void {
    if (!keepXattr(key)) this.#refusedXattr(key, name);
    else this.#judgeXattr(fsetxattr(fd, key, value, EOPNOTSUPP, EPERM, EINVAL), key, name);
  }

  #judgeXattr(result: number, key: ByteString, name: ByteString): void {
    if (result < 0) this.notes.add(`attribute ${quote(key)} refused by the filesystem`, name);
  }

  #refusedXattr(key: ByteString, name: ByteString): void {
    this.notes.add(`attribute ${quote(key)} left out, layers do not carry it`, name);
  }

  #count(bytes: number): void {
    if (this.sizeBytes !== undefined) this.sizeBytes += bytes;
  }

  /** All entries are in: gives directories their last touch where that needs nothing from below, and answers the rest. `check`: see `Settling`. */
  finish(check: () => void = () => {}): Unsettled {
    const { tree, placeholders } = this;
    for (const { names } of placeholders) {
      for (const name of names) tree.markStandIn(parentPath(name));
    }
    finishDirectories(tree, this.notes, check);
    return { directories: tree.directories, placeholders };
  }

  /** Closes what is open; the tree stays as it is. */
  [Symbol.dispose](): void {
    if (this.#file !== undefined) close(this.#file.fd);
    this.#file = undefined;
    this.tree[Symbol.dispose]();
  }
}
