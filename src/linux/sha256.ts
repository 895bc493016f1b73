import { type Hasher, sha256 as nodeSha256 } from '../base/crypto.ts';
import type { Digest } from '../base/digest.ts';
import { inProcess } from './libc.ts';

// SHA-256 by the OpenSSL that Node runs on, called as it is: node:crypto, which brings the same code, is 18 modules and
// the streams, 4 to 5 ms of every thread that hashes anything. See docs/decisions/25-sha256-without-node-crypto.md.

/** SHA256_CTX (openssl/sha.h) has 112 bytes. */
const STATE_BYTES = 256;
const SHA256_BYTES = 32;
const TEXT = 'layerstore';
const TEXT_SHA256 = '3bc6f6377e8b4f682c1ba31ef980220b9eee9bb35962de21d1a5ad49c101a72a';

const FUNCTIONS = {
  init: 'int SHA256_Init(uint8_t *)',
  update: 'int SHA256_Update(uint8_t *, uint8_t *, size_t)',
  final: 'int SHA256_Final(uint8_t *, uint8_t *)',
} as const;

type Functions = Readonly<Record<keyof typeof FUNCTIONS, (...args: readonly unknown[]) => number>>;

class Sha256 implements Hasher {
  readonly #by: Functions;
  readonly #state = Buffer.allocUnsafeSlow(STATE_BYTES);

  constructor(by: Functions) {
    this.#by = by;
    by.init(this.#state);
  }

  update(data: Uint8Array | string): this {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    if (bytes.length > 0) this.#by.update(this.#state, bytes, bytes.length);
    return this;
  }

  digest(): Buffer;
  digest(as: 'hex'): string;
  digest(as?: 'hex'): Buffer | string {
    const digest = Buffer.alloc(SHA256_BYTES);
    this.#by.final(digest, this.#state);
    return as === undefined ? digest : digest.toString(as);
  }
}

/** Tried once in each thread: a Node that hides these functions, or has others of these names, hashes by node:crypto. */
function find(): () => Hasher {
  try {
    const by = Object.fromEntries(
      Object.entries(FUNCTIONS).map(([name, prototype]) => [name, inProcess(prototype)]),
    ) as Functions;
    const make = (): Hasher => new Sha256(by);
    if (make().update(TEXT).digest('hex') === TEXT_SHA256) return make;
  } catch {
    // There is no such function.
  }
  nodeSha256().update(TEXT).digest(); // what it loads late it has loaded then
  return nodeSha256;
}

const found: { make?: () => Hasher } = {};

/** Loads nothing once it was called in this thread. */
export function sha256(): Hasher {
  found.make ??= find();
  return found.make();
}

/** As `digestOf` of base/digest.ts. */
export function digestOf(data: Uint8Array | string): Digest {
  return `sha256:${sha256().update(data).digest('hex')}`;
}
