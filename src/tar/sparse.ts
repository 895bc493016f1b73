import { BLOCK, type Field, GNU_REAL_SIZE, Malformed, paddingOf, readNumber, SIZE_MAX } from './header.ts';
import type { PaxSparse } from './pax.ts';
import type { Extent } from './types.ts';

/**
 * The runs of one sparse file while they are read, each checked on arrival: ascending, not overlapping, inside the
 * file, not more than allowed (CVE-2025-58183 was a map without that bound).
 */
export class SparseMap {
  readonly realSize: number;
  readonly #max: number;
  readonly #extents: Extent[] = [];
  #count = 0;
  #end = 0;
  #dataBytes = 0;

  constructor(realSize: number, max: number) {
    this.realSize = realSize;
    this.#max = max;
  }

  add(offset: number, length: number): void {
    if (++this.#count > this.#max) throw new Malformed(`its sparse map has more than ${this.#max} runs`);
    if (offset < this.#end) {
      throw new Malformed(`its sparse map goes back: a run begins at ${offset}, the one before ends at ${this.#end}`);
    }
    if (offset > this.realSize || length > this.realSize - offset) {
      throw new Malformed(`its sparse map leaves the file: ${length} bytes at ${offset} of ${this.realSize}`);
    }
    this.#end = offset + length;
    this.#dataBytes += length;
    // GNU tar ends every map of a file with a trailing hole by an empty run at its end.
    if (length > 0) this.#extents.push({ offset, length });
  }

  /** The runs, once it is sure that `payloadBytes` is their sum. */
  finish(payloadBytes: number): readonly Extent[] {
    if (this.#dataBytes === payloadBytes) return this.#extents;
    throw new Malformed(`its sparse map has ${this.#dataBytes} bytes of data, its payload ${payloadBytes}`);
  }
}

const OLD_RUNS_AT = 386;
const OLD_RUNS = 4;
const OLD_EXTENDED_AT = 482;
const EXTENSION_RUNS = 21;
const EXTENSION_EXTENDED_AT = 504;

/** Reads the runs in an old GNU header (type `S`). True if an extension block follows. */
export function readOldSparse(block: Uint8Array, base: number, map: SparseMap): boolean {
  return readRuns(block, base, OLD_RUNS_AT, OLD_RUNS, OLD_EXTENDED_AT, map);
}

/** The length of the file that an old GNU sparse header makes. */
export function readOldRealSize(block: Uint8Array, base: number): number {
  return readNumber(block, base, GNU_REAL_SIZE);
}

/** Reads one extension block of an old GNU sparse header. True if another follows. */
export function readSparseExtension(block: Uint8Array, base: number, map: SparseMap): boolean {
  return readRuns(block, base, 0, EXTENSION_RUNS, EXTENSION_EXTENDED_AT, map);
}

function readRuns(
  block: Uint8Array,
  base: number,
  at: number,
  count: number,
  extendedAt: number,
  map: SparseMap,
): boolean {
  const extended = block[base + extendedAt] !== 0;
  for (let i = 0; i < count; i++) {
    const offset: Field = [at + i * 24, 12, 'sparse offset'];
    const length: Field = [at + i * 24 + 12, 12, 'sparse length'];
    const blank = block[base + offset[0]] === 0;
    // GNU tar ends the list at an empty length, Go at an empty offset and goes on with the next block: only where all
    // of them agree is it one map.
    if (blank !== (block[base + length[0]] === 0)) throw new Malformed('its sparse map has a run with one number');
    if (blank && extended) throw new Malformed('its sparse map ends and still claims another block');
    if (blank) break;
    map.add(readNumber(block, base, offset), readNumber(block, base, length));
  }
  return extended;
}

/**
 * The map of PAX sparse format 1.0, which lies before the data: decimal numbers, a newline after each (count, then
 * offset and length of each run), zeros up to the block's end. Fed in pieces of any size.
 */
export class SparseText {
  readonly map: SparseMap;
  /** True once the padding after the map is read too. */
  done = false;
  #bytesRead = 0;
  #value = 0;
  #digits = 0;
  #offset = -1;
  /** Numbers still to come; -1 before the count. */
  #numbersLeft = -1;
  readonly #max: number;

  constructor(map: SparseMap, max: number) {
    this.map = map;
    this.#max = max;
  }

  /** Reads from `start`, at most to `end`; answers where it stopped. */
  feed(bytes: Uint8Array, start: number, end: number): number {
    let at = start;
    while (at < end && this.#numbersLeft !== 0) {
      const byte = bytes[at++]!;
      if (byte === 0x0a) {
        if (this.#digits === 0) throw new Malformed('its sparse map has an empty line');
        this.#number(this.#value);
        this.#value = this.#digits = 0;
      } else {
        if (byte < 0x30 || byte > 0x39) throw new Malformed('its sparse map has a line that is no decimal number');
        this.#value = this.#value * 10 + (byte - 0x30);
        if (++this.#digits > 20 || this.#value > SIZE_MAX) throw new Malformed('its sparse map has a number too large');
      }
    }
    this.#bytesRead += at - start;
    if (this.#numbersLeft === 0) {
      const padding = Math.min(paddingOf(this.#bytesRead), end - at);
      this.#bytesRead += padding;
      at += padding;
      this.done = this.#bytesRead % BLOCK === 0;
    }
    return at;
  }

  #number(value: number): void {
    if (this.#numbersLeft < 0) {
      if (value > this.#max) throw new Malformed(`its sparse map has more than ${this.#max} runs`);
      this.#numbersLeft = value * 2;
      return;
    }
    this.#numbersLeft--;
    if (this.#offset < 0) this.#offset = value;
    else {
      this.map.add(this.#offset, value);
      this.#offset = -1;
    }
  }
}

/** What PAX records say of a sparse file: its whole map (0.0, 0.1), or the reader of the one before its data (1.0). */
export function openPaxSparse(records: PaxSparse, extentsMax: number): SparseMap | SparseText {
  const { realSize, runs, numbers, major = 0, minor = 0 } = records;
  if (realSize === undefined) throw new Malformed('its PAX sparse records lack the real size');
  const map = new SparseMap(realSize, extentsMax);
  if (major === 1 && minor === 0) {
    if (numbers !== undefined) throw new Malformed('it has two sparse maps');
    return new SparseText(map, extentsMax);
  }
  // Versions 0.0 and 0.1 often go without saying.
  if (major !== 0 || minor > 1) throw new Malformed(`its sparse format is ${major}.${minor}, which is unknown`);
  const found = numbers ?? [];
  if (found.length % 2 !== 0 || found.length / 2 !== runs) {
    throw new Malformed(`its sparse map has ${found.length} numbers for ${runs ?? 'an unknown number of'} runs`);
  }
  for (let i = 0; i < found.length; i += 2) map.add(found[i]!, found[i + 1]!);
  return map;
}
