const EMPTY = 0;

/**
 * A set of paths by a hash of 53 bits: 16 to 32 bytes each, however long they are. A path that is not in it is taken for
 * one that is with a chance of 1 in 2^53 for each that is.
 */
export class PathSet {
  #slots = new Float64Array(1024);
  #count = 0;

  add(path: string): void {
    const hash = hashOf(path);
    const at = this.#find(hash);
    if (this.#slots[at] === hash) return;
    this.#slots[at] = hash;
    this.#count++;
    if (this.#count * 2 > this.#slots.length) this.#enlarge();
  }

  has(path: string): boolean {
    const hash = hashOf(path);
    return this.#slots[this.#find(hash)] === hash;
  }

  /** The slot of the hash, or the empty one where it belongs. */
  #find(hash: number): number {
    const last = this.#slots.length - 1;
    let at = hash % this.#slots.length;
    while (this.#slots[at] !== EMPTY && this.#slots[at] !== hash) at = at === last ? 0 : at + 1;
    return at;
  }

  #enlarge(): void {
    const before = this.#slots;
    this.#slots = new Float64Array(before.length * 2);
    for (const hash of before) if (hash !== EMPTY) this.#slots[this.#find(hash)] = hash;
  }
}

/** Two sums of 32 bits in the manner of MurmurHash, 53 bits of both; never 0. */
function hashOf(path: string): number {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  for (let i = 0; i < path.length; i++) {
    const byte = path.charCodeAt(i);
    a = Math.imul(a ^ byte, 2654435761);
    b = Math.imul(b ^ byte, 1597334677);
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
  return 0x1_0000_0000 * (b & 0x1f_ffff) + (a >>> 0) || 1;
}
