import type { Hash } from 'node:crypto';

// node:crypto takes 5 ms to load, in every thread anew, and most commands need none of it: it is loaded by its first use.

function loaded(): typeof import('node:crypto') {
  return process.getBuiltinModule('node:crypto');
}

export function sha256(): Hash {
  return loaded().createHash('sha256');
}
