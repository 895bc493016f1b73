// node:crypto takes 5 ms to load, in every thread anew, and most commands need none of it: it is loaded by its first use.
// What commands need every time is in linux/random.ts and linux/sha256.ts, which the database's thread does not load.

/** A digest in the making. */
export interface Hasher {
  update(data: Uint8Array | string): Hasher;
  /** The last call. */
  digest(): Buffer;
  digest(as: 'hex'): string;
}

function loaded(): typeof import('node:crypto') {
  return process.getBuiltinModule('node:crypto');
}

export function sha256(): Hasher {
  return loaded().createHash('sha256');
}

export function randomUUID(): string {
  return loaded().randomUUID();
}

export function randomBytes(size: number): Buffer {
  return loaded().randomBytes(size);
}
