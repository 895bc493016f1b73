import { StorageError } from '../base/errors.ts';

/** How a blob is packed. */
export type Compression = 'gzip' | 'zstd' | 'none';

/** As many bytes of a blob's beginning as `sniff` wants; fewer only where the blob is shorter. */
export const SNIFF_BYTES = 10;

/**
 * Compressions that we name and refuse. Magic numbers made of letters are as long as the format allows, because an
 * uncompressed tar begins with a file name.
 */
const REFUSED: readonly (readonly [name: string, magic: readonly number[]])[] = [
  ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ['lz4', [0x04, 0x22, 0x4d, 0x18]],
  ['lz4', [0x02, 0x21, 0x4c, 0x18]], // the frame of lz4 before 1.0, what the Linux kernel packs
  ['lzip', [0x4c, 0x5a, 0x49, 0x50, 0x01]], // version 0, out of use since 2009, would be a file named "LZIP"
  ['compress (.Z)', [0x1f, 0x9d]],
];

/** What follows "BZh1" to "BZh9": the magic of a block, or of the end of an empty stream. */
const BZIP2: readonly (readonly number[])[] = [
  [0x31, 0x41, 0x59, 0x26, 0x53, 0x59],
  [0x17, 0x72, 0x45, 0x38, 0x50, 0x90],
];

/**
 * The compression of a blob that begins with `head` (SNIFF_BYTES of it), by content alone. No bytes are `none`.
 * xz, bzip2, lz4, lzip and compress are `unsupported`, by name. What is none of these is `none`: the tar reader judges it.
 */
export function sniff(head: Uint8Array): Compression {
  if (begins(head, [0x1f, 0x8b])) return 'gzip';
  if (begins(head, [0x28, 0xb5, 0x2f, 0xfd])) return 'zstd';
  // A skippable frame: 0x184D2A50 to 0x184D2A5F, little-endian (RFC 8878, 3.1.2). lz4 has the same one and seldom begins with it.
  if (begins(head.subarray(1), [0x2a, 0x4d, 0x18]) && (head[0]! & 0xf0) === 0x50) return 'zstd';
  const refused = isBzip2(head) ? 'bzip2' : REFUSED.find(([, magic]) => begins(head, magic))?.[0];
  if (refused === undefined) return 'none';
  throw new StorageError(
    'unsupported',
    `Cannot unpack the blob: it is compressed with ${refused}; repack it with gzip or zstd, or not at all`,
  );
}

function isBzip2(head: Uint8Array): boolean {
  const level = head[3] ?? 0;
  const body = head.subarray(4);
  return (
    begins(head, [0x42, 0x5a, 0x68]) && level >= 0x31 && level <= 0x39 && BZIP2.some((magic) => begins(body, magic))
  );
}

function begins(bytes: Uint8Array, magic: readonly number[]): boolean {
  return magic.every((byte, i) => bytes[i] === byte);
}
