import { type ByteString, fromBytes, quote } from '../base/bytes.ts';

/** Everything in an archive is laid out in blocks of this many bytes. */
export const BLOCK = 512;

/** Largest size we count with: exact as a number, with room for padding and headers around it. */
export const SIZE_MAX: number = Number.MAX_SAFE_INTEGER - (1 << 20);

/** 2^32 − 1 means "leave as it is" to chown(2), so it is no id (security-cases, Owners). */
export const ID_MAX = 0xffff_fffe;

/** What device numbers the kernel can hold: 12 and 20 bits. */
export const MAJOR_MAX = 0xfff;
export const MINOR_MAX = 0xf_ffff;

export const INT64_MIN: bigint = -(2n ** 63n);
export const INT64_MAX: bigint = 2n ** 63n - 1n;
export const NS_PER_SECOND: bigint = 1_000_000_000n;

/** Why bytes are no archive, still without the place; the lexer adds entry and offset and makes it a StorageError. */
export class Malformed extends Error {}

/** What stands where a header should is none: its checksum does not hold, and it has no magic. */
export class NoHeader extends Malformed {}

/** A field of the header block: offset, length, and its name for messages. */
export type Field = readonly [at: number, length: number, what: string];

// POSIX.1-2017, pax, "ustar Interchange Format"; the GNU ones from tar.h of GNU tar (struct oldgnu_header).
export const NAME: Field = [0, 100, 'name'];
export const MODE: Field = [100, 8, 'mode'];
export const UID: Field = [108, 8, 'uid'];
export const GID: Field = [116, 8, 'gid'];
export const SIZE: Field = [124, 12, 'size'];
export const MTIME: Field = [136, 12, 'mtime'];
export const CHECKSUM: Field = [148, 8, 'checksum'];
export const TYPE = 156;
export const LINK_NAME: Field = [157, 100, 'linkname'];
export const MAGIC = 257;
export const DEV_MAJOR: Field = [329, 8, 'devmajor'];
export const DEV_MINOR: Field = [337, 8, 'devminor'];
export const PREFIX: Field = [345, 155, 'prefix'];
export const GNU_REAL_SIZE: Field = [483, 12, 'realsize'];

/** Which layout the fields after the link name have. `v7` has none of them. */
export type Dialect = 'ustar' | 'gnu' | 'v7';

/**
 * From the magic at byte 257: `ustar` NUL is ustar whatever its version, `ustar` and two blanks is GNU's, all else is
 * v7 (GNU tar and Go's archive/tar read it so).
 */
export function dialectOf(block: Uint8Array, base: number): Dialect {
  const at = base + MAGIC;
  // "ustar"
  if (block[at] !== 0x75 || block[at + 1] !== 0x73 || block[at + 2] !== 0x74) return 'v7';
  if (block[at + 3] !== 0x61 || block[at + 4] !== 0x72) return 'v7';
  if (block[at + 5] === 0) return 'ustar';
  return block[at + 5] === 0x20 && block[at + 6] === 0x20 ? 'gnu' : 'v7';
}

/** Bytes from the end of `sizeBytes` to the next block: 0 to 511. */
export function paddingOf(sizeBytes: number): number {
  return (BLOCK - (sizeBytes % BLOCK)) % BLOCK;
}

/** Whether the 512 bytes at `base` are all zero. */
export function isZeroBlock(block: Uint8Array, base: number): boolean {
  for (let i = base; i < base + BLOCK; i++) if (block[i] !== 0) return false;
  return true;
}

/** Refuses a block whose checksum is neither the unsigned sum (POSIX) nor the signed one (old Sun and BSD tars). */
export function verifyChecksum(block: Uint8Array, base: number): void {
  let sum = 0;
  let high = 0;
  for (let i = base; i < base + BLOCK; i++) {
    const byte = block[i]!;
    sum += byte;
    high += byte >> 7;
  }
  // The field itself counts as eight blanks.
  for (let i = base + CHECKSUM[0]; i < base + CHECKSUM[0] + 8; i++) {
    const byte = block[i]!;
    sum += 0x20 - byte;
    high -= byte >> 7;
  }
  const stored = checksumOf(block, base);
  if (stored !== sum && stored !== sum - 256 * high) {
    const why = `its header's checksum is ${stored}, the bytes add up to ${sum}`;
    throw hasMagic(block, base) ? new Malformed(why) : new NoHeader(why);
  }
}

function hasMagic(block: Uint8Array, base: number): boolean {
  return Buffer.from(block.buffer, block.byteOffset + base + MAGIC, 5).toString('latin1') === 'ustar';
}

function checksumOf(block: Uint8Array, base: number): number {
  try {
    return readNumber(block, base, CHECKSUM);
  } catch (error) {
    throw error instanceof Malformed && !hasMagic(block, base) ? new NoHeader(error.message) : error;
  }
}

/** The bytes of a field up to its first NUL. */
export function readName(block: Uint8Array, base: number, field: Field): ByteString {
  const start = base + field[0];
  const limit = start + field[1];
  let end = start;
  while (end < limit && block[end] !== 0) end++;
  return end === start ? ('' as ByteString) : fromBytes(block, start, end);
}

/**
 * A number that is not negative: octal after any blanks, ended by NUL, blank or the field's end; or base-256 (first bit
 * set). A field of NULs and blanks alone is 0. Anything else is refused, also digits after a leading NUL, which GNU tar
 * reads as 0 and Go as a number.
 */
export function readNumber(block: Uint8Array, base: number, field: Field): number {
  let at = base + field[0];
  const end = at + field[1];
  if ((block[at]! & 0x80) !== 0) return readBase256(block, base, field);
  while (at < end && block[at] === 0x20) at++;
  const digitsAt = at;
  let value = 0;
  for (; at < end; at++) {
    const digit = block[at]! - 0x30;
    if (digit < 0 || digit > 7) break;
    value = value * 8 + digit; // at most 12 digits: 36 bits
  }
  if (at === digitsAt) {
    for (; at < end; at++) if (block[at] !== 0 && block[at] !== 0x20) throw notANumber(block, base, field);
  } else if (at < end && block[at] !== 0 && block[at] !== 0x20) throw notANumber(block, base, field);
  return value;
}

function readBase256(block: Uint8Array, base: number, field: Field): number {
  const start = base + field[0];
  if ((block[start]! & 0x40) !== 0) throw new Malformed(`its ${field[2]} is negative`);
  let value = block[start]! & 0x3f;
  // Rounding beyond 2^53 does no harm: what is that large stays too large.
  for (let at = start + 1; at < start + field[1]; at++) value = value * 256 + block[at]!;
  if (value > SIZE_MAX) throw new Malformed(`its ${field[2]} is larger than ${SIZE_MAX}`);
  return value;
}

/** As `readNumber`, but base-256 may be negative (GNU tar writes times before 1970 so) and has 64 bits: whole seconds. */
export function readSeconds(block: Uint8Array, base: number, field: Field): bigint {
  const start = base + field[0];
  const first = block[start]!;
  if ((first & 0x80) === 0) return BigInt(readNumber(block, base, field));
  let value = BigInt((first & 0x40) === 0 ? first & 0x3f : first - 0x100);
  for (let at = start + 1; at < start + field[1]; at++) value = value * 256n + BigInt(block[at]!);
  if (value < INT64_MIN || value > INT64_MAX) throw new Malformed(`its ${field[2]} is beyond 64 bits`);
  return value;
}

function notANumber(block: Uint8Array, base: number, field: Field): Malformed {
  const start = base + field[0];
  return new Malformed(`its ${field[2]} is ${quote(fromBytes(block, start, start + field[1]))}, not an octal number`);
}

/** What goes into a ustar header block; numbers that fit their octal field, names that fit theirs. */
export interface HeaderFields {
  readonly name: ByteString;
  readonly prefix: ByteString;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly sizeBytes: number;
  readonly mtime: number;
  /** One character. */
  readonly type: string;
  readonly linkName: ByteString;
  readonly devMajor: number;
  readonly devMinor: number;
}

/** Largest value of a zero-padded octal field that ends in a NUL. */
export function octalMax(field: Field): number {
  return 8 ** (field[1] - 1) - 1;
}

/** One ustar block (magic `ustar` NUL `00`, no user or group names), checksum included, into the zeros at `base`. */
export function encodeHeader(fields: HeaderFields, block: Uint8Array, base: number): void {
  // The checksum's own field counts as blanks. The bytes are added up as they are written: most of a header is zeros.
  let sum = CHECKSUM[1] * 0x20;
  sum += writeText(block, base + NAME[0], NAME[1], fields.name);
  sum += writeOctal(block, base, MODE, fields.mode);
  sum += writeOctal(block, base, UID, fields.uid);
  sum += writeOctal(block, base, GID, fields.gid);
  sum += writeOctal(block, base, SIZE, fields.sizeBytes);
  sum += writeOctal(block, base, MTIME, fields.mtime);
  sum += writeText(block, base + TYPE, 1, fields.type);
  sum += writeText(block, base + LINK_NAME[0], LINK_NAME[1], fields.linkName);
  sum += writeText(block, base + MAGIC, 8, 'ustar\x0000');
  sum += writeOctal(block, base, DEV_MAJOR, fields.devMajor);
  sum += writeOctal(block, base, DEV_MINOR, fields.devMinor);
  sum += writeText(block, base + PREFIX[0], PREFIX[1], fields.prefix);
  // Six digits, NUL, blank: what every tar since v7 writes here.
  writeOctal(block, base, CHECKSUM_DIGITS, sum);
  block[base + CHECKSUM[0] + 7] = 0x20;
}

const CHECKSUM_DIGITS: Field = [CHECKSUM[0], 7, CHECKSUM[2]];

/** Answers the sum of the bytes, as `writeOctal`. */
function writeText(block: Uint8Array, at: number, length: number, text: string): number {
  let sum = 0;
  const end = Math.min(length, text.length);
  for (let i = 0; i < end; i++) {
    const byte = text.charCodeAt(i) & 0xff;
    block[at + i] = byte;
    sum += byte;
  }
  return sum;
}

function writeOctal(block: Uint8Array, base: number, field: Field, value: number): number {
  let sum = 0;
  let rest = value;
  for (let at = base + field[0] + field[1] - 2; at >= base + field[0]; at--) {
    const digit = 0x30 + (rest % 8);
    block[at] = digit;
    sum += digit;
    rest = Math.floor(rest / 8);
  }
  return sum;
}
