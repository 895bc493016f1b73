import type { ByteString } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';

// The directories that a layer makes while it is unpacked, in columns of numbers: an object with a map of its children
// would cost a kilobyte for each, and a layer may make millions (invariant 10). What stays below 100 bytes for each and
// its name: one row, its name's bytes, and one place in a table that finds a row by parent and name.

/** A row of `Directories`; given again once its directory was removed. */
export type DirectoryRow = number;

/** The layer's root. */
export const ROOT_ROW: DirectoryRow = 0;

/** What is known of one directory, to be combined. */
export const Mark = {
  /** The archive has not listed it: it looks as the one below does. */
  implied: 1,
  /** Marked opaque by the archive. */
  opaque: 2,
  /** A whiteout of this layer names it: it is new, nothing of the one below is in it. */
  reborn: 4,
  /** Whiteouts of this layer stand in it. */
  whiteouts: 8,
  /** Something in it is changed while the layer is settled, so its time is given after that. */
  retouched: 16,
  /** Made because a whiteout lies below a symlink that names it: without entries and a directory below, it goes again. */
  passing: 32,
  /** It is as it will be. */
  settled: 64,
} as const;

const NONE = -1;
const NS = 1_000_000_000n;
/** Says that a row has a time; beyond the marks that callers see. */
const TIMED = 128;
const ROWS_AT_FIRST = 64;
/** Access lists wait until a directory is full. Real ones have 28 to some hundred bytes, and there are few different ones. */
const ACL_BYTES_MAX = 16 * 1024 * 1024;

export class Directories {
  #rows = 0;
  /** First of the rows that are free again, linked by `#next`. */
  #free: DirectoryRow = NONE;
  #live = 0;
  #parent = new Int32Array(ROWS_AT_FIRST);
  #first = new Int32Array(ROWS_AT_FIRST);
  #next = new Int32Array(ROWS_AT_FIRST);
  #previous = new Int32Array(ROWS_AT_FIRST);
  #marks = new Uint8Array(ROWS_AT_FIRST);
  // Seconds and nanoseconds apart: an archive may say years that 64 bits of nanoseconds do not hold.
  #seconds = new BigInt64Array(ROWS_AT_FIRST);
  #nanoseconds = new Uint32Array(ROWS_AT_FIRST);
  #nameAt = new Float64Array(ROWS_AT_FIRST);
  #nameLength = new Uint8Array(ROWS_AT_FIRST);
  #names = Buffer.alloc(ROWS_AT_FIRST * 16);
  #namesEnd = 0;
  /** Bytes of `#names` that belong to rows. */
  #namesLive = 0;
  /** Rows by parent and name: open addressing, at most half full, NONE where free. */
  #table = new Int32Array(ROWS_AT_FIRST * 2).fill(NONE);
  /** Names come from an archive: it must not be able to choose where they fall. What this gives it never learns. */
  readonly #seed = Math.floor(Math.random() * 2 ** 32) | 0;
  readonly #acls = new Map<DirectoryRow, Buffer>();
  #aclBytes = 0;

  /** With the root, which is `implied` until an entry lists it. */
  constructor() {
    this.#append(NONE, '' as ByteString, Mark.implied);
  }

  /** How many there are, the root with them. */
  get size(): number {
    return this.#live;
  }

  /** A new directory in `parent`, which has none of that name; a name has at most 255 bytes. */
  add(parent: DirectoryRow, name: ByteString, marks = 0): DirectoryRow {
    const row = this.#append(parent, name, marks);
    if (this.#live * 2 > this.#table.length) this.#enlargeTable();
    else this.#enter(row);
    return row;
  }

  child(parent: DirectoryRow, name: ByteString): DirectoryRow | undefined {
    const row = this.#table[this.#slotOf(parent, name)] as number;
    return row === NONE ? undefined : row;
  }

  /** The row of a path without symlinks (from `above`), undefined where the layer made no such directory. */
  find(path: ByteString, above: DirectoryRow = ROOT_ROW): DirectoryRow | undefined {
    let row: DirectoryRow | undefined = above;
    for (let at = 0; at < path.length && row !== undefined; ) {
      const slash = path.indexOf('/', at);
      const end = slash < 0 ? path.length : slash;
      row = this.child(row, path.slice(at, end) as ByteString);
      at = end + 1;
    }
    return row;
  }

  parent(row: DirectoryRow): DirectoryRow | undefined {
    const parent = this.#parent[row] as number;
    return parent === NONE ? undefined : parent;
  }

  name(row: DirectoryRow): ByteString {
    const at = this.#nameAt[row] as number;
    return this.#names.toString('latin1', at, at + (this.#nameLength[row] as number)) as ByteString;
  }

  /** The first directory in `row`; the others follow by `nextSibling`, later ones first. */
  firstChild(row: DirectoryRow): DirectoryRow | undefined {
    const first = this.#first[row] as number;
    return first === NONE ? undefined : first;
  }

  nextSibling(row: DirectoryRow): DirectoryRow | undefined {
    const next = this.#next[row] as number;
    return next === NONE ? undefined : next;
  }

  /** Whether any of the `marks` is set. */
  has(row: DirectoryRow, marks: number): boolean {
    return ((this.#marks[row] as number) & marks) !== 0;
  }

  mark(row: DirectoryRow, marks: number): void {
    this.#marks[row] = (this.#marks[row] as number) | marks;
  }

  unmark(row: DirectoryRow, marks: number): void {
    this.#marks[row] = (this.#marks[row] as number) & ~marks;
  }

  /** Given at the very end: filling a directory changes its time. */
  mtimeNs(row: DirectoryRow): bigint | undefined {
    if (!this.has(row, TIMED)) return undefined;
    return (this.#seconds[row] as bigint) * NS + BigInt(this.#nanoseconds[row] as number);
  }

  setMtimeNs(row: DirectoryRow, ns: bigint): void {
    this.mark(row, TIMED);
    const below = ((ns % NS) + NS) % NS;
    this.#seconds[row] = (ns - below) / NS;
    this.#nanoseconds[row] = Number(below);
  }

  /** Given last, or everything made in the directory would inherit it. */
  defaultAcl(row: DirectoryRow): Buffer | undefined {
    return this.#acls.get(row);
  }

  setDefaultAcl(row: DirectoryRow, acl: Buffer | undefined): void {
    this.#aclBytes += (acl?.length ?? 0) - (this.#acls.get(row)?.length ?? 0);
    if (this.#aclBytes > ACL_BYTES_MAX) {
      throw new StorageError(
        'corrupt',
        `Cannot unpack: its default access lists have more than ${ACL_BYTES_MAX} bytes`,
      );
    }
    if (acl === undefined) this.#acls.delete(row);
    else this.#acls.set(row, acl);
  }

  /** Takes a directory and all below it out; the root stays. */
  remove(row: DirectoryRow): void {
    const top = this.#parent[row] as number;
    let at = row;
    for (;;) {
      const first = this.#first[at] as number;
      if (first !== NONE) {
        at = first;
        continue;
      }
      const parent = this.#parent[at] as number;
      this.#drop(at);
      if (parent === top) return;
      at = parent;
    }
  }

  /** Columns that `decodeDirectories` makes the same tree of. */
  encode(): EncodedDirectories {
    const count = this.#live;
    const parents = new Int32Array(count);
    const marks = new Uint8Array(count);
    const seconds = new BigInt64Array(count);
    const nanoseconds = new Uint32Array(count);
    const nameLengths = new Uint8Array(count);
    const names = Buffer.allocUnsafeSlow(this.#namesLive);
    const acls: [number, Buffer][] = [];
    const rows = new Int32Array(count);
    let namesEnd = 0;
    let end = 1;
    parents[0] = NONE;
    for (let index = 0; index < count; index++) {
      const row = rows[index] as number;
      marks[index] = this.#marks[row] as number;
      seconds[index] = this.#seconds[row] as bigint;
      nanoseconds[index] = this.#nanoseconds[row] as number;
      nameLengths[index] = this.#nameLength[row] as number;
      const nameAt = this.#nameAt[row] as number;
      namesEnd += this.#names.copy(names, namesEnd, nameAt, nameAt + (this.#nameLength[row] as number));
      const acl = this.#acls.get(row);
      if (acl !== undefined) acls.push([index, acl]);
      for (let child = this.firstChild(row); child !== undefined; child = this.nextSibling(child)) {
        parents[end] = index;
        rows[end++] = child;
      }
    }
    return { parents, marks, seconds, nanoseconds, nameLengths, names, acls };
  }

  #append(parent: DirectoryRow, name: ByteString, marks: number): DirectoryRow {
    let row = this.#free;
    if (row !== NONE) this.#free = this.#next[row] as number;
    else {
      row = this.#rows++;
      if (row === this.#parent.length) this.#enlargeRows();
    }
    this.#live++;
    if (this.#namesEnd + name.length > this.#names.length) this.#enlargeNames(name.length);
    this.#names.write(name, this.#namesEnd, 'latin1');
    this.#nameAt[row] = this.#namesEnd;
    this.#nameLength[row] = name.length;
    this.#namesEnd += name.length;
    this.#namesLive += name.length;
    this.#marks[row] = marks;
    this.#parent[row] = parent;
    this.#first[row] = NONE;
    this.#previous[row] = NONE;
    const next = parent === NONE ? NONE : (this.#first[parent] as number);
    this.#next[row] = next;
    if (next !== NONE) this.#previous[next] = row;
    if (parent !== NONE) this.#first[parent] = row;
    return row;
  }

  /** Takes out a row without children. */
  #drop(row: DirectoryRow): void {
    this.#leave(row);
    this.setDefaultAcl(row, undefined);
    const next = this.#next[row] as number;
    const previous = this.#previous[row] as number;
    if (previous === NONE) this.#first[this.#parent[row] as number] = next;
    else this.#next[previous] = next;
    if (next !== NONE) this.#previous[next] = previous;
    this.#namesLive -= this.#nameLength[row] as number;
    this.#nameLength[row] = 0;
    this.#next[row] = this.#free;
    this.#free = row;
    this.#live--;
  }

  #enlargeRows(): void {
    const rows = this.#rows + (this.#rows >> 1);
    this.#parent = enlarged(this.#parent, new Int32Array(rows));
    this.#first = enlarged(this.#first, new Int32Array(rows));
    this.#next = enlarged(this.#next, new Int32Array(rows));
    this.#previous = enlarged(this.#previous, new Int32Array(rows));
    this.#marks = enlarged(this.#marks, new Uint8Array(rows));
    this.#nameLength = enlarged(this.#nameLength, new Uint8Array(rows));
    this.#nameAt = enlarged(this.#nameAt, new Float64Array(rows));
    this.#nanoseconds = enlarged(this.#nanoseconds, new Uint32Array(rows));
    this.#seconds = enlarged(this.#seconds, new BigInt64Array(rows));
  }

  /** Makes room for `more` bytes of names; those of removed rows go. */
  #enlargeNames(more: number): void {
    const to = Buffer.allocUnsafeSlow(Math.ceil((this.#namesLive + more) * 1.5));
    let end = 0;
    for (let row = 0; row < this.#rows; row++) {
      const length = this.#nameLength[row] as number;
      if (length === 0) continue; // free, the root, or the row that is being made
      const at = this.#nameAt[row] as number;
      this.#names.copy(to, end, at, at + length);
      this.#nameAt[row] = end;
      end += length;
    }
    this.#names = to;
    this.#namesEnd = end;
  }

  #enlargeTable(): void {
    this.#table = new Int32Array(this.#table.length * 2).fill(NONE);
    for (let todo: number[] = [ROOT_ROW], at = todo.pop(); at !== undefined; at = todo.pop()) {
      for (let child = this.firstChild(at); child !== undefined; child = this.nextSibling(child)) {
        this.#enter(child);
        if ((this.#first[child] as number) !== NONE) todo.push(child);
      }
    }
  }

  #enter(row: DirectoryRow): void {
    this.#table[this.#slotOf(this.#parent[row] as number, this.name(row))] = row;
  }

  /** Where the row of that name is, or would be. */
  #slotOf(parent: DirectoryRow, name: ByteString): number {
    const mask = this.#table.length - 1;
    for (let slot = this.#hash(parent, name) & mask; ; slot = (slot + 1) & mask) {
      const row = this.#table[slot] as number;
      if (row === NONE || (this.#parent[row] === parent && this.#isNamed(row, name))) return slot;
    }
  }

  #isNamed(row: DirectoryRow, name: ByteString): boolean {
    if (this.#nameLength[row] !== name.length) return false;
    const at = this.#nameAt[row] as number;
    for (let i = 0; i < name.length; i++) if (this.#names[at + i] !== name.charCodeAt(i)) return false;
    return true;
  }

  /** Closes the gap that the row leaves, as open addressing needs it. */
  #leave(row: DirectoryRow): void {
    const mask = this.#table.length - 1;
    let gap = this.#slotOf(this.#parent[row] as number, this.name(row));
    for (let slot = (gap + 1) & mask; ; slot = (slot + 1) & mask) {
      const other = this.#table[slot] as number;
      if (other === NONE) break;
      const home = this.#hash(this.#parent[other] as number, this.name(other)) & mask;
      // It may move into the gap unless its home lies cyclically between the gap and where it is.
      if (((slot - home) & mask) < ((slot - gap) & mask)) continue;
      this.#table[gap] = other;
      gap = slot;
    }
    this.#table[gap] = NONE;
  }

  /** FNV-1a from a secret start, with the last step of MurmurHash3: its low bits choose the slot. */
  #hash(parent: DirectoryRow, name: ByteString): number {
    let hash = Math.imul(this.#seed ^ parent, 0x85ebca6b);
    for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ (hash >>> 15) ^ name.charCodeAt(i), 0x01000193);
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return hash ^ (hash >>> 16);
  }
}

/** Rows by their index, each after its parent; a thread can post it. */
export interface EncodedDirectories {
  readonly parents: Int32Array;
  readonly marks: Uint8Array;
  readonly seconds: BigInt64Array;
  readonly nanoseconds: Uint32Array;
  readonly nameLengths: Uint8Array;
  readonly names: Uint8Array;
  readonly acls: readonly (readonly [number, Uint8Array])[];
}

/** Law: the tree of `decodeDirectories(d.encode())` is that of `d`. */
export function decodeDirectories(encoded: EncodedDirectories): Directories {
  const { parents, marks, seconds, nanoseconds, nameLengths, acls } = encoded;
  const names = Buffer.from(encoded.names.buffer, encoded.names.byteOffset, encoded.names.byteLength);
  const made = new Directories();
  const rows = new Int32Array(parents.length);
  let nameAt = 0;
  for (let index = 0; index < parents.length; index++) {
    const nameEnd = nameAt + (nameLengths[index] as number);
    const name = names.toString('latin1', nameAt, nameEnd) as ByteString;
    const row = index === 0 ? ROOT_ROW : made.add(rows[parents[index] as number] as number, name);
    nameAt = nameEnd;
    rows[index] = row;
    made.unmark(row, ~0);
    if (((marks[index] as number) & TIMED) !== 0) {
      made.setMtimeNs(row, (seconds[index] as bigint) * NS + BigInt(nanoseconds[index] as number));
    }
    made.mark(row, marks[index] as number);
  }
  for (const [index, acl] of acls) made.setDefaultAcl(rows[index] as number, Buffer.from(acl));
  return made;
}

type Column = Int32Array | Uint8Array | Uint32Array | Float64Array | BigInt64Array;

function enlarged<T extends Column>(from: T, to: T): T {
  (to as Int32Array).set(from as Int32Array);
  return to;
}
