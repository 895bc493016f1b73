import { type ByteString, fromBytes, quote } from '../base/bytes.ts';
import { ID_MAX, INT64_MAX, INT64_MIN, Malformed, NS_PER_SECOND, SIZE_MAX } from './header.ts';

/** What an empty value does: it takes away what a global header or an earlier record said (POSIX, pax). */
export const DELETED = null;
type Value<T> = T | typeof DELETED | undefined;

/** The GNU.sparse.* records of one header, not yet weighed against each other. */
export interface PaxSparse {
  major?: number;
  minor?: number;
  name?: ByteString;
  /** GNU.sparse.size (0.0, 0.1) or GNU.sparse.realsize (1.0). */
  realSize?: number;
  runs?: number;
  /** Offset, length, offset, length…: of 0.0's repeated records or 0.1's list. */
  numbers?: number[];
  /** `numbers` came as one list (0.1). */
  listed?: boolean;
}

/** The records we know of one extended header, or of all global ones so far. */
export interface PaxRecords {
  path: Value<ByteString>;
  linkPath: Value<ByteString>;
  size: Value<number>;
  uid: Value<number>;
  gid: Value<number>;
  mtimeNs: Value<bigint>;
  xattrs: Map<ByteString, Buffer> | undefined;
  sparse: PaxSparse | undefined;
}

export function noRecords(): PaxRecords {
  return {
    path: undefined,
    linkPath: undefined,
    size: undefined,
    uid: undefined,
    gid: undefined,
    mtimeNs: undefined,
    xattrs: undefined,
    sparse: undefined,
  };
}

const SCHILY = 'SCHILY.xattr.';
const LIBARCHIVE = 'LIBARCHIVE.xattr.';

/**
 * Reads the records in bytes `start` to `end` of `bytes` into `into`; a later record of a keyword replaces an earlier
 * one. Values are copied. Unknown keywords (hdrcharset too: names are bytes) are dropped. Throws Malformed.
 */
export function parsePax(bytes: Buffer, start: number, end: number, into: PaxRecords): void {
  let schily: Map<ByteString, Buffer> | undefined;
  let libarchive: Map<ByteString, ByteString> | undefined;
  let at = start;
  while (at < end) {
    let length = 0;
    let digitsEnd = at;
    for (; digitsEnd < end; digitsEnd++) {
      const digit = bytes[digitsEnd]! - 0x30;
      if (digit < 0 || digit > 9 || (digit === 0 && length === 0) || length > end) break;
      length = length * 10 + digit;
    }
    const recordEnd = at + length;
    if (length === 0 || bytes[digitsEnd] !== 0x20) throw new Malformed('a PAX record begins without a length');
    if (recordEnd > end || bytes[recordEnd - 1] !== 0x0a || recordEnd - 1 <= digitsEnd) {
      throw new Malformed(`a PAX record of ${length} bytes does not end in a newline there`);
    }
    const keyAt = digitsEnd + 1;
    const equals = bytes.indexOf(0x3d, keyAt);
    if (equals <= keyAt || equals >= recordEnd - 1) throw new Malformed('a PAX record has no keyword or no "="');
    const key = fromBytes(bytes, keyAt, equals);
    if (key.includes('\0')) throw new Malformed(`the PAX keyword ${quote(key)} holds a NUL`);
    if (key.startsWith(SCHILY)) {
      // latin1 text would do, but values can be large and are wanted as bytes.
      schily ??= new Map();
      schily.set(key.slice(SCHILY.length) as ByteString, Buffer.from(bytes.subarray(equals + 1, recordEnd - 1)));
    } else {
      const value = fromBytes(bytes, equals + 1, recordEnd - 1);
      if (key.startsWith(LIBARCHIVE)) {
        libarchive ??= new Map();
        libarchive.set(key.slice(LIBARCHIVE.length) as ByteString, value);
      } else if (key.startsWith('GNU.sparse.')) {
        into.sparse ??= {};
        takeSparse(into.sparse, key, value);
      } else take(into, key, value);
    }
    at = recordEnd;
  }
  if (schily !== undefined || libarchive !== undefined) mergeXattrs(into, schily, libarchive);
}

function take(into: PaxRecords, key: ByteString, value: ByteString): void {
  switch (key as string) {
    case 'path':
      into.path = value === '' ? DELETED : checkedName(key, value);
      break;
    case 'linkpath':
      into.linkPath = value === '' ? DELETED : checkedName(key, value);
      break;
    case 'size':
      into.size = value === '' ? DELETED : parseDecimal(key, value, SIZE_MAX);
      break;
    case 'uid':
      into.uid = value === '' ? DELETED : parseDecimal(key, value, ID_MAX);
      break;
    case 'gid':
      into.gid = value === '' ? DELETED : parseDecimal(key, value, ID_MAX);
      break;
    case 'mtime':
      into.mtimeNs = value === '' ? DELETED : parsePaxTime(value);
      break;
  }
}

function takeSparse(into: PaxSparse, key: ByteString, value: ByteString): void {
  switch (key.slice(11)) {
    case 'major':
      into.major = parseDecimal(key, value, 9);
      break;
    case 'minor':
      into.minor = parseDecimal(key, value, 9);
      break;
    case 'name':
      if (value === '') throw new Malformed(`its ${key} is empty`);
      into.name = checkedName(key, value);
      break;
    case 'size':
    case 'realsize': {
      const size = parseDecimal(key, value, SIZE_MAX);
      if (into.realSize !== undefined && into.realSize !== size) throw new Malformed('it has two real sizes');
      into.realSize = size;
      break;
    }
    case 'numblocks':
      into.runs = parseDecimal(key, value, SIZE_MAX);
      break;
    case 'offset':
    case 'numbytes': {
      if (into.listed === true) throw new Malformed('it has two sparse maps');
      into.numbers ??= [];
      const odd = into.numbers.length % 2 === 1;
      if (odd !== (key === 'GNU.sparse.numbytes'))
        throw new Malformed('its sparse offsets and lengths do not alternate');
      into.numbers.push(parseDecimal(key, value, SIZE_MAX));
      break;
    }
    case 'map':
      if (into.numbers !== undefined) throw new Malformed('it has two sparse maps');
      into.listed = true;
      into.numbers = value === '' ? [] : value.split(',').map((n) => parseDecimal(key, n as ByteString, SIZE_MAX));
      break;
  }
}

function checkedName(key: ByteString, value: ByteString): ByteString {
  if (value.includes('\0'))
    throw new Malformed(`its PAX ${key} ${quote(value.slice(0, 200) as ByteString)} holds a NUL`);
  return value;
}

const DECIMAL = /^[0-9]{1,19}$/;

function parseDecimal(key: ByteString, value: ByteString, max: number): number {
  const number = Number(value);
  if (DECIMAL.test(value) && number <= max) return number;
  throw new Malformed(`its PAX ${key} is ${quote(value.slice(0, 40) as ByteString)}, not a number up to ${max}`);
}

const TIME = /^(-?)([0-9]{1,19})(?:\.([0-9]*))?$/;

/** A PAX time (decimal seconds, any fraction) in nanoseconds, cut downwards. The seconds must fit 64 bits. */
export function parsePaxTime(value: ByteString): bigint {
  const match = TIME.exec(value);
  if (match === null) throw new Malformed(`its PAX mtime is ${quote(value.slice(0, 40) as ByteString)}, not a time`);
  const fraction = match[3] ?? '';
  let ns = BigInt(match[2]!) * NS_PER_SECOND + BigInt(fraction.slice(0, 9).padEnd(9, '0'));
  if (match[1] === '-') ns = /[1-9]/.test(fraction.slice(9)) ? -ns - 1n : -ns;
  if (ns < INT64_MIN * NS_PER_SECOND || ns >= (INT64_MAX + 1n) * NS_PER_SECOND) {
    throw new Malformed(`its PAX mtime ${value.slice(0, 40)} is beyond 64 bits`);
  }
  return ns;
}

/** Nanoseconds as a PAX time, as short as it goes. */
export function formatPaxTime(ns: bigint): string {
  const size = ns < 0n ? -ns : ns;
  const fraction = (size % NS_PER_SECOND).toString().padStart(9, '0').replace(/0+$/, '');
  return `${ns < 0n ? '-' : ''}${size / NS_PER_SECOND}${fraction === '' ? '' : `.${fraction}`}`;
}

/**
 * libarchive writes each attribute twice: SCHILY (bytes) and LIBARCHIVE (base64), both under a percent-encoded name,
 * so a twin tells that the SCHILY name is encoded too. Others leave SCHILY names bare, but for GNU tar's `%3D` and `%25`.
 * An empty value is an empty attribute, not a deletion: GNU tar and libarchive write and read it so.
 */
function mergeXattrs(
  into: PaxRecords,
  schily: ReadonlyMap<ByteString, Buffer> | undefined,
  libarchive: ReadonlyMap<ByteString, ByteString> | undefined,
): void {
  const out = into.xattrs ?? new Map<ByteString, Buffer>();
  if (libarchive !== undefined) for (const [key, value] of libarchive) out.set(percentDecode(key), fromBase64(value));
  if (schily !== undefined) {
    for (const [key, value] of schily) out.set(libarchive?.has(key) ? percentDecode(key) : xattrName(key), value);
  }
  if (out.has('' as ByteString)) throw new Malformed('it has an extended attribute without a name');
  into.xattrs = out;
}

function xattrName(key: ByteString): ByteString {
  return (key.includes('%') ? key.replace(/%3D|%25/g, (code) => (code === '%25' ? '%' : '=')) : key) as ByteString;
}

function percentDecode(key: ByteString): ByteString {
  if (!key.includes('%')) return key;
  if (/%(?![0-9a-fA-F]{2})|%00/.test(key)) throw new Malformed(`the attribute name ${quote(key)} is badly encoded`);
  return key.replace(/%(..)/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))) as ByteString;
}

function fromBase64(value: ByteString): Buffer {
  const bare = value.replace(/={1,2}$/, '');
  if (!/^[A-Za-z0-9+/]*$/.test(bare) || bare.length % 4 === 1) throw new Malformed('an attribute is not valid base64');
  return Buffer.from(bare, 'base64');
}

/** The keyword of a record that holds the extended attribute `name`, spelled as GNU tar does. */
export function xattrKey(name: ByteString): ByteString {
  return `${SCHILY}${name.replace(/[%=]/g, (char) => (char === '%' ? '%25' : '%3D'))}` as ByteString;
}

/** One record after another, keywords sorted bytewise: equal maps give equal bytes. */
export function encodePax(records: ReadonlyMap<ByteString, ByteString | Uint8Array>): Buffer {
  let text = '';
  for (const key of [...records.keys()].sort((a, b) => (a < b ? -1 : 1))) {
    const value = records.get(key)!;
    text += paxRecord(key, typeof value === 'string' ? value : fromBytes(value));
  }
  return Buffer.from(text, 'latin1');
}

/** Its length stands first, and counts itself. */
export function paxRecord(key: string, value: string): string {
  const bare = key.length + value.length + 3; // blank, "=", newline
  let length = bare + String(bare).length;
  if (String(length).length > String(bare).length) length++;
  return `${length} ${key}=${value}\n`;
}
