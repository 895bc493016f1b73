import { type ByteString, quote } from '../base/bytes.ts';
import {
  DEV_MAJOR,
  DEV_MINOR,
  type Dialect,
  GID,
  ID_MAX,
  LINK_NAME,
  MAJOR_MAX,
  Malformed,
  MINOR_MAX,
  MODE,
  MTIME,
  NAME,
  NS_PER_SECOND,
  PREFIX,
  readName,
  readNumber,
  readSeconds,
  UID,
} from './header.ts';
import type { PaxRecords } from './pax.ts';
import type { TarEntry, TarEntryType } from './types.ts';

/** An entry while its headers are read. */
export type Draft = { -readonly [K in keyof TarEntry]: TarEntry[K] };

/** What extended headers said about an entry. */
export interface Said {
  readonly local: PaxRecords;
  readonly global: PaxRecords;
  readonly longName: ByteString | undefined;
  readonly longLink: ByteString | undefined;
}

const TYPES: Readonly<Record<string, TarEntryType>> = {
  '\0': 'file',
  '0': 'file',
  '7': 'file', // "contiguous": a file to everybody
  '1': 'hardlink',
  '2': 'symlink',
  '3': 'character-device',
  '4': 'block-device',
  '5': 'directory',
  '6': 'fifo',
  D: 'directory', // GNU dump directory: its payload is a listing
  S: 'file', // old GNU sparse
  V: 'skipped', // GNU volume label
};

/** A draft that has the header's own name only, also for messages. `xattrs` is the empty map to begin with. */
export function beginEntry(
  block: Uint8Array,
  base: number,
  dialect: Dialect,
  xattrs: ReadonlyMap<ByteString, Buffer>,
): Draft {
  let name = readName(block, base, NAME);
  // GNU's dialect keeps times and sparse maps where ustar has the prefix.
  const prefix = dialect === 'ustar' ? readName(block, base, PREFIX) : '';
  if (prefix !== '') name = `${prefix}/${name}` as ByteString;
  return {
    type: 'file',
    name,
    linkName: '' as ByteString,
    mode: 0,
    uid: 0,
    gid: 0,
    sizeBytes: 0,
    mtimeNs: 0n,
    devMajor: 0,
    devMinor: 0,
    xattrs,
  };
}

/** Everything of an entry but its size and sparse map. */
export function fillEntry(
  draft: Draft,
  block: Uint8Array,
  base: number,
  letter: string,
  dialect: Dialect,
  { local, global, longName, longLink }: Said,
): void {
  draft.name = oneName(local.sparse?.name ?? pick(local.path, global.path), longName) ?? draft.name;
  draft.type = typeOf(letter, draft.name);
  if (draft.type === 'symlink' || draft.type === 'hardlink') {
    draft.linkName = oneName(pick(local.linkPath, global.linkPath), longLink) ?? readName(block, base, LINK_NAME);
  }
  draft.mode = readNumber(block, base, MODE) & 0o7777;
  draft.uid = idOf(readNumber(block, base, UID), pick(local.uid, global.uid), 'uid');
  draft.gid = idOf(readNumber(block, base, GID), pick(local.gid, global.gid), 'gid');
  const seconds = readSeconds(block, base, MTIME);
  draft.mtimeNs = pick(local.mtimeNs, global.mtimeNs) ?? seconds * NS_PER_SECOND;
  if ((draft.type === 'character-device' || draft.type === 'block-device') && dialect !== 'v7') {
    draft.devMajor = readNumber(block, base, DEV_MAJOR);
    draft.devMinor = readNumber(block, base, DEV_MINOR);
    if (draft.devMajor > MAJOR_MAX || draft.devMinor > MINOR_MAX) {
      throw new Malformed(`its device ${draft.devMajor}:${draft.devMinor} is beyond ${MAJOR_MAX}:${MINOR_MAX}`);
    }
  }
  if (global.xattrs === undefined) draft.xattrs = local.xattrs ?? draft.xattrs;
  else draft.xattrs = new Map([...global.xattrs, ...(local.xattrs ?? [])]);
}

function typeOf(letter: string, name: ByteString): TarEntryType {
  const type = TYPES[letter];
  if (letter === 'M') throw new Malformed('it continues on another volume');
  if (type === undefined) throw new Malformed(`its type is ${quote(letter as ByteString)}, which is unknown`);
  // Before POSIX a directory was a file with a slash at the end.
  return letter === '\0' && name.endsWith('/') ? 'directory' : type;
}

function pick<T>(local: T | null | undefined, global: T | null | undefined): T | undefined {
  return (local === undefined ? global : local) ?? undefined;
}

/** GNU tar prefers the PAX name, Go the GNU one: only where they agree is the archive clear. */
function oneName(pax: ByteString | undefined, long: ByteString | undefined): ByteString | undefined {
  if (pax !== undefined && long !== undefined && pax !== long) {
    throw new Malformed(`it has two names, ${quote(pax.slice(0, 256) as ByteString)} by PAX and another by GNU`);
  }
  return pax ?? long;
}

function idOf(header: number, pax: number | undefined, what: string): number {
  const id = pax ?? header;
  if (id > ID_MAX) throw new Malformed(`its ${what} is ${id}, the largest is ${ID_MAX}`);
  return id;
}
