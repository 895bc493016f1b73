// struct statx (include/uapi/linux/stat.h), as the kernel fills it.

/** What statx(2) tells of an inode. */
export interface Stat {
  /** Type and permission bits. */
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly ino: number;
  /** The low 32 bits of `ino`: both together are exact also beyond 2^53. */
  readonly inoLow: number;
  /** `major * 2^32 + minor` of the filesystem: equal exactly for inodes of one filesystem. */
  readonly dev: number;
  readonly rdevMajor: number;
  readonly rdevMinor: number;
  readonly sizeBytes: number;
  /** 512-byte units really taken. */
  readonly blocks: number;
  readonly mtimeNs: bigint;
  readonly ctimeNs: bigint;
  readonly atimeNs: bigint;
  /** 0 where the kernel does not tell (before 5.8). */
  readonly mountId: number;
}

/** What little of an inode tells whether it is what an overlay shows. */
export type BriefStat = Pick<Stat, 'mode' | 'nlink' | 'sizeBytes' | 'blocks' | 'rdevMajor' | 'rdevMinor'>;

/** What the kernel fills and we read at once: a new buffer for each of millions of calls is a third of their time. */
export const STATX: Buffer = Buffer.allocUnsafeSlow(256);
// The same bytes as numbers: to read these is a fraction of what the functions of Buffer take before they are compiled.
// What we run on is little-endian, as the kernel's structures then are, too.
const STATX_32 = new Uint32Array(STATX.buffer);
const BILLION = 1_000_000_000n;

/** What the kernel has just filled in. */
export function filledIn(): Stat {
  return new Inode();
}

/** Whether what the kernel has just filled in is an inode as it was, but for when it was read and where its data lie. */
export function isFilledInAs(before: Stat): boolean {
  return before instanceof Inode && before.isFilledIn();
}

/** As `filledIn`, little of it. */
export function brieflyFilledIn(): BriefStat {
  const u32 = STATX_32;
  return {
    nlink: u32[4]!,
    mode: u32[7]! & 0xffff,
    sizeBytes: uint64(u32, 10),
    blocks: uint64(u32, 12),
    rdevMajor: u32[32]!,
    rdevMinor: u32[33]!,
  };
}

/** Times become one number when they are asked for: of most inodes nobody does. */
class Inode implements Stat {
  readonly nlink: number = STATX_32[4]!;
  readonly uid: number = STATX_32[5]!;
  readonly gid: number = STATX_32[6]!;
  readonly mode: number = STATX_32[7]! & 0xffff;
  readonly ino: number = uint64(STATX_32, 8);
  readonly inoLow: number = STATX_32[8]!;
  readonly sizeBytes: number = uint64(STATX_32, 10);
  readonly blocks: number = uint64(STATX_32, 12);
  readonly rdevMajor: number = STATX_32[32]!;
  readonly rdevMinor: number = STATX_32[33]!;
  readonly dev: number = STATX_32[34]! * 0x1_0000_0000 + STATX_32[35]!;
  readonly mountId: number = (STATX_32[0]! & 0x1000) === 0 ? 0 : uint64(STATX_32, 36);
  readonly #atime = STATX_32[16]!;
  readonly #atimeHigh = STATX_32[17]!;
  readonly #atimeRest = STATX_32[18]!;
  readonly #ctime = STATX_32[24]!;
  readonly #ctimeHigh = STATX_32[25]!;
  readonly #ctimeRest = STATX_32[26]!;
  readonly #mtime = STATX_32[28]!;
  readonly #mtimeHigh = STATX_32[29]!;
  readonly #mtimeRest = STATX_32[30]!;

  isFilledIn(): boolean {
    const u32 = STATX_32;
    return (
      this.#ctime === u32[24] &&
      this.#ctimeRest === u32[26] &&
      this.#ctimeHigh === u32[25] &&
      this.#mtime === u32[28] &&
      this.#mtimeRest === u32[30] &&
      this.#mtimeHigh === u32[29] &&
      this.inoLow === u32[8] &&
      this.ino === uint64(u32, 8) &&
      this.dev === u32[34]! * 0x1_0000_0000 + u32[35]! &&
      this.sizeBytes === uint64(u32, 10) &&
      this.nlink === u32[4] &&
      this.uid === u32[5] &&
      this.gid === u32[6] &&
      this.mode === (u32[7]! & 0xffff)
    );
  }

  get atimeNs(): bigint {
    return timeOf(this.#atime, this.#atimeHigh, this.#atimeRest);
  }

  get ctimeNs(): bigint {
    return timeOf(this.#ctime, this.#ctimeHigh, this.#ctimeRest);
  }

  get mtimeNs(): bigint {
    return timeOf(this.#mtime, this.#mtimeHigh, this.#mtimeRest);
  }
}

// Inode numbers beyond 2^53 (overlay's xino puts a layer number into the high bits) lose low bits as doubles, which is
// what `inoLow` is for.
export function uint64(u32: Uint32Array, at: number): number {
  return u32[at + 1]! * 0x1_0000_0000 + u32[at]!;
}

/** struct statx_timestamp: seconds of 64 bits, signed, and nanoseconds. */
function timeOf(low: number, high: number, rest: number): bigint {
  // Before 1970 the high half is negative. Up to the year 2106 it is 0.
  const seconds = high === 0 ? BigInt(low) : BigInt(high | 0) * 0x1_0000_0000n + BigInt(low);
  return seconds * BILLION + BigInt(rest);
}
