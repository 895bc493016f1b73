import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import {
  BLOCK,
  encodeHeader,
  GID,
  ID_MAX,
  LINK_NAME,
  MAJOR_MAX,
  MINOR_MAX,
  MTIME,
  NAME,
  NS_PER_SECOND,
  octalMax,
  PREFIX,
  paddingOf,
  SIZE,
  SIZE_MAX,
  UID,
} from './header.ts';
import { encodePax, formatPaxTime, paxRecord, xattrKey } from './pax.ts';
import type { TarEntry, TarEntryType } from './types.ts';

const NO_BYTES = new Uint8Array();
const LETTERS: Readonly<Record<Exclude<TarEntryType, 'skipped'>, string>> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  'character-device': '3',
  'block-device': '4',
  directory: '5',
  fifo: '6',
};

const MTIME_MAX_NS = BigInt(octalMax(MTIME)) * NS_PER_SECOND + NS_PER_SECOND - 1n;

/** As given; a directory's ends in a slash. */
function nameOf(entry: TarEntry): ByteString {
  const { name } = entry;
  return entry.type === 'directory' && !name.endsWith('/') ? (`${name}/` as ByteString) : name;
}

/**
 * All that comes before an entry's payload: one ustar header, before it one PAX header if ustar cannot say everything,
 * after it the map of a sparse file (PAX format 1.0). Equal entries give equal bytes. The payload (of a sparse file:
 * its runs), and then `paddingFor` its size, follow. An entry that no archive can hold is `invalid-argument`.
 * Of a sparse file only the last run may be other than whole blocks.
 * Law: the lexer reads back the entry, a directory's slash added.
 */
export function encodeEntry(entry: TarEntry): Buffer {
  const letter = verify(entry);
  const name = nameOf(entry);
  const records = new Map<ByteString, ByteString | Uint8Array>();
  const record = (key: string, value: string | number | Uint8Array): void => {
    records.set(key as ByteString, typeof value === 'number' ? (String(value) as ByteString) : (value as ByteString));
  };

  let map: Uint8Array = NO_BYTES;
  let payload = entry.sizeBytes;
  let split = splitName(name);
  if (entry.sparse !== undefined) {
    map = encodeSparseMap(entry);
    payload = map.length + entry.sparse.reduce((sum, extent) => sum + extent.length, 0);
    record('GNU.sparse.major', 1);
    record('GNU.sparse.minor', 0);
    record('GNU.sparse.name', name);
    record('GNU.sparse.realsize', entry.sizeBytes);
    split = { prefix: '' as ByteString, name: standIn('GNUSparseFile.0', name) };
  } else if (split === undefined) {
    record('path', name);
    split = { prefix: '' as ByteString, name: name.slice(0, NAME[1]) as ByteString };
  }
  if (entry.linkName.length > LINK_NAME[1]) record('linkpath', entry.linkName);
  if (payload > octalMax(SIZE)) record('size', payload);
  if (entry.uid > octalMax(UID)) record('uid', entry.uid);
  if (entry.gid > octalMax(GID)) record('gid', entry.gid);
  // Whole seconds, cut downwards, where they fit; readers without PAX are at most a second off.
  const { mtimeNs } = entry;
  const fits = mtimeNs >= 0n && mtimeNs <= MTIME_MAX_NS;
  const seconds = fits ? mtimeNs / NS_PER_SECOND : 0n;
  if (!fits || seconds * NS_PER_SECOND !== mtimeNs) record('mtime', formatPaxTime(mtimeNs));
  for (const [key, value] of entry.xattrs) record(xattrKey(key), value);

  const fields = {
    ...split,
    mode: entry.mode,
    uid: fitting(entry.uid, octalMax(UID)),
    gid: fitting(entry.gid, octalMax(GID)),
    sizeBytes: fitting(payload, octalMax(SIZE)),
    mtime: Number(seconds),
    type: letter,
    linkName: entry.linkName.slice(0, LINK_NAME[1]) as ByteString,
    devMajor: entry.devMajor,
    devMinor: entry.devMinor,
  };
  if (records.size === 0) {
    const bytes = Buffer.alloc(BLOCK + map.length);
    encodeHeader(fields, bytes, 0);
    bytes.set(map, BLOCK);
    return bytes;
  }
  const pax = encodePax(records);
  const at = BLOCK + pax.length + paddingOf(pax.length);
  // From Node's pool: it is copied, and a buffer of its own takes longer than all that is written into it.
  const bytes = Buffer.allocUnsafe(at + BLOCK + map.length).fill(0);
  encodeHeader({ ...PAX_HEADER, name: standIn('PaxHeaders.0', name), sizeBytes: pax.length }, bytes, 0);
  bytes.set(pax, BLOCK);
  encodeHeader(fields, bytes, at);
  bytes.set(map, at + BLOCK);
  return bytes;
}

/**
 * As `encodeEntry`, into `room` from `at` to before `end`; answers where it ends, undefined where there is not room for
 * it. Most entries need no more than a time in PAX, and are written where they go.
 */
export function writeEntry(entry: TarEntry, room: Buffer, at: number, end: number): number | undefined {
  const { linkName, sizeBytes, uid, gid, mtimeNs } = entry;
  const name = nameOf(entry);
  const isPlain =
    entry.sparse === undefined &&
    entry.xattrs.size === 0 &&
    name.length <= NAME[1] &&
    linkName.length <= LINK_NAME[1] &&
    sizeBytes <= SIZE_OCTAL_MAX &&
    uid <= ID_OCTAL_MAX &&
    gid <= ID_OCTAL_MAX &&
    mtimeNs >= 0n &&
    mtimeNs <= MTIME_MAX_NS;
  if (!isPlain) {
    const bytes = encodeEntry(entry);
    if (bytes.length > end - at) return undefined;
    room.set(bytes, at);
    return at + bytes.length;
  }
  const type = verify(entry);
  const seconds = mtimeNs / NS_PER_SECOND;
  const isWhole = seconds * NS_PER_SECOND === mtimeNs;
  const headerAt = isWhole ? at : at + 2 * BLOCK;
  if (headerAt + BLOCK > end) return undefined;
  room.fill(0, at, headerAt + BLOCK);
  if (!isWhole) {
    const pax = paxRecord('mtime', formatPaxTime(mtimeNs));
    encodeHeader({ ...PAX_HEADER, name: standIn('PaxHeaders.0', name), sizeBytes: pax.length }, room, at);
    room.write(pax, at + BLOCK, 'latin1');
  }
  const { mode, devMajor, devMinor } = entry;
  const mtime = Number(seconds);
  const fields = { prefix: EMPTY, name, mode, uid, gid, sizeBytes, mtime, type, linkName, devMajor, devMinor };
  encodeHeader(fields, room, headerAt);
  return headerAt + BLOCK;
}

const EMPTY = '' as ByteString;
const SIZE_OCTAL_MAX = octalMax(SIZE);
const ID_OCTAL_MAX = Math.min(octalMax(UID), octalMax(GID));

const PAX_HEADER = {
  prefix: '' as ByteString,
  mode: 0o644,
  uid: 0,
  gid: 0,
  mtime: 0,
  type: 'x',
  linkName: '' as ByteString,
  devMajor: 0,
  devMinor: 0,
};

/** The zeros between a payload of `sizeBytes` and the next header: 0 to 511. */
export function paddingFor(sizeBytes: number): Buffer {
  return Buffer.alloc(paddingOf(sizeBytes)); // the caller's own: he may write into it, or hand its memory on
}

/** The end of an archive: two zero blocks. */
export function trailer(): Buffer {
  return Buffer.alloc(2 * BLOCK);
}

/** A number that PAX says in full is 0 in the header, as GNU tar and Go write it. */
function fitting(value: number, max: number): number {
  return value <= max ? value : 0;
}

/** What the header itself is called where PAX has the name: only readers without PAX see it. */
function standIn(directory: string, name: ByteString): ByteString {
  const bare = name.endsWith('/') ? name.slice(0, -1) : name;
  const last = bare.slice(bare.lastIndexOf('/') + 1);
  return `${directory}/${last.slice(0, 80)}` as ByteString;
}

/** Name and prefix of a ustar header, or undefined where the name cannot be split at a slash so that both fit. */
function splitName(name: ByteString): { name: ByteString; prefix: ByteString } | undefined {
  if (name.length <= NAME[1]) return { name, prefix: '' as ByteString };
  // The last byte is never the slash to split at: a directory's own slash belongs to its name.
  const slash = name.lastIndexOf('/', Math.min(PREFIX[1], name.length - 2));
  if (slash <= 0 || name.length - slash - 1 > NAME[1]) return undefined;
  return { prefix: name.slice(0, slash) as ByteString, name: name.slice(slash + 1) as ByteString };
}

function encodeSparseMap(entry: TarEntry): Buffer {
  const runs = [...(entry.sparse ?? [])];
  const last = runs.at(-1);
  // GNU tar finds the file's length in a last run that may be empty.
  if (last === undefined || last.offset + last.length < entry.sizeBytes) {
    runs.push({ offset: entry.sizeBytes, length: 0 });
  }
  const text = Buffer.from(`${runs.length}\n${runs.map((run) => `${run.offset}\n${run.length}\n`).join('')}`, 'latin1');
  return Buffer.concat([text, paddingFor(text.length)]);
}

/** Refuses what cannot be written or could not be read back; answers the type's letter. */
function verify(entry: TarEntry): string {
  const { type, name, linkName, sizeBytes, sparse, xattrs } = entry;
  if (type === 'skipped') return refuse(entry, 'a skipped entry has no form of its own');
  if (name === '' || name.includes('\0')) refuse(entry, 'a name has at least one byte and no NUL');
  if (linkName !== '' && linkName.includes('\0')) refuse(entry, `its link name ${quote(linkName)} holds a NUL`);
  within(entry, 'mode', entry.mode, 0o7777);
  within(entry, 'uid', entry.uid, ID_MAX);
  within(entry, 'gid', entry.gid, ID_MAX);
  within(entry, 'device major', entry.devMajor, MAJOR_MAX);
  within(entry, 'device minor', entry.devMinor, MINOR_MAX);
  within(entry, 'size', sizeBytes, SIZE_MAX);
  if (type !== 'file' && (sizeBytes !== 0 || sparse !== undefined)) refuse(entry, 'only files have a size');
  for (const key of xattrs.size === 0 ? NO_NAMES : xattrs.keys()) {
    if (key === '' || key.includes('\0')) refuse(entry, `it has the attribute name ${quote(key)}`);
  }
  if (sparse !== undefined) verifyMap(entry, sparse);
  return LETTERS[type];
}

const NO_NAMES: readonly ByteString[] = [];

function verifyMap(entry: TarEntry, runs: NonNullable<TarEntry['sparse']>): void {
  let end = 0;
  let blocks = 0;
  for (const { offset, length } of runs) {
    within(entry, 'sparse offset', offset, entry.sizeBytes);
    within(entry, 'sparse length', length, entry.sizeBytes - offset);
    if (offset < end || length === 0) refuse(entry, 'its sparse map is not ascending, or has an empty run');
    // GNU tar begins each run at a block's start, others right after the one before: only whole blocks please both.
    if (blocks % 1 !== 0)
      refuse(entry, 'a run of its sparse map is not whole blocks of 512 bytes, which only the last may be');
    blocks = length / BLOCK;
    end = offset + length;
  }
}

function within(entry: TarEntry, what: string, value: number, max: number): void {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    refuse(entry, `its ${what} is ${value}, not 0 to ${max}`);
  }
}

function refuse({ name }: TarEntry, why: string): never {
  const what = `Cannot write entry ${quote(name)} to an archive: ${why}`;
  throw new StorageError('invalid-argument', what, { path: name });
}
