import type { Hash } from 'node:crypto';

// node:crypto takes 5 ms to load, in every thread anew, and most commands need none of it: it is loaded by its first use.
// Names that commands make every time: linux/random.ts, which the database's thread does not load.

function loaded(): typeof import('node:crypto') {
  return process.getBuiltinModule('node:crypto');
}

export function sha256(): Hash {
  return loaded().createHash('sha256');
}

export function randomUUID(): string {
  return loaded().randomUUID();
}

export function randomBytes(size: number): Buffer {
  return loaded().randomBytes(size);
}
