import { sha256 } from './crypto.ts';
import { StorageError } from './errors.ts';

/** `sha256:` and 64 of 0-9a-f; nothing else ever has this type. */
export type Digest = `sha256:${string}`;

const DIGEST = /^sha256:[0-9a-f]{64}$/;

/** Narrows text from outside, or undefined: algorithm, length and case are exact. */
export function asDigest(text: unknown): Digest | undefined {
  return typeof text === 'string' && DIGEST.test(text) ? (text as Digest) : undefined;
}

/** As `asDigest`; what is not one is `corrupt`. `what` names it in the message. */
export function parseDigest(text: unknown, what: string): Digest {
  const digest = asDigest(text);
  if (digest !== undefined) return digest;
  throw new StorageError(
    'corrupt',
    `Cannot read ${what}: ${JSON.stringify(text)?.slice(0, 100)} is not a digest ("sha256:" and 64 of 0-9a-f)`,
  );
}

/** The 64 hexadecimal characters: a safe file name. */
export function hexOf(digest: Digest): string {
  return digest.slice(7);
}

/** Digest of a short text or byte run held in memory. */
export function digestOf(data: string | Uint8Array): Digest {
  return `sha256:${sha256().update(data).digest('hex')}`;
}
