import type { Digest } from '../base/digest.ts';
import { asDigest } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import { shown } from './json.ts';

/** An image's name, with its defaults filled in: at least one of tag and digest is there. */
export interface Reference {
  /** Host, perhaps with a port: `docker.io`, `localhost:5000`. */
  readonly domain: string;
  /** `library/debian`. */
  readonly path: string;
  readonly tag?: string;
  readonly digest?: Digest;
}

// The grammar is github.com/distribution/reference, regexp.go and normalize.go.
const DOMAIN =
  /^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$/;
const PATH_PART = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/;
const TAG = /^\w[\w.-]{0,127}$/;
const NAME_MAX = 255;

/** True for what may stand behind the colon of a reference. */
export function isTag(text: string): boolean {
  return TAG.test(text);
}

/**
 * A reference as people write it: `x`, `x:1`, `ghcr.io/o/x@sha256:…`. Docker Hub, `library/` and `latest` are filled in.
 * Anything else is `invalid-argument`.
 */
export function parseReference(text: string): Reference {
  const refuse = (state: string): StorageError =>
    new StorageError('invalid-argument', `Cannot use ${shown(text)} as an image name: ${state}`);
  let name = text;
  let digest: Digest | undefined;
  const at = name.indexOf('@');
  if (at >= 0) {
    digest = asDigest(name.slice(at + 1));
    if (digest === undefined) throw refuse('what follows "@" is not "sha256:" and 64 of 0-9a-f');
    name = name.slice(0, at);
  }
  let tag: string | undefined;
  const colon = name.lastIndexOf(':');
  if (colon > name.lastIndexOf('/')) {
    tag = name.slice(colon + 1);
    if (!TAG.test(tag)) throw refuse('its tag is not 1 to 128 letters, digits, "_", "." and "-"');
    name = name.slice(0, colon);
  }
  if (name === '') throw refuse('it is empty');
  if (name.length > NAME_MAX) throw refuse(`it is longer than ${NAME_MAX} characters`);
  if (/^[0-9a-f]{64}$/.test(name)) throw refuse('64 hexadecimal characters are an id, not a name');

  const { domain, path } = splitDomain(name);
  if (!DOMAIN.test(domain)) throw refuse(`${shown(domain)} is not a host`);
  for (const part of path.split('/')) {
    if (PATH_PART.test(part)) continue;
    const lower = PATH_PART.test(part.toLowerCase());
    throw refuse(
      lower ? 'it must be lower case' : 'it is not lower-case letters and digits joined by ".", "_", "-" and "/"',
    );
  }
  if (`${domain}/${path}`.length > NAME_MAX) throw refuse(`it is longer than ${NAME_MAX} characters`);
  if (tag === undefined && digest === undefined) tag = 'latest';
  return { domain, path, ...(tag === undefined ? {} : { tag }), ...(digest === undefined ? {} : { digest }) };
}

/** The first of several parts is a host only where it could be nothing else. */
function looksLikeHost(part: string): boolean {
  return /[.:]/.test(part) || part === 'localhost' || part !== part.toLowerCase();
}

function splitDomain(name: string): { domain: string; path: string } {
  const slash = name.indexOf('/');
  const isHost = slash >= 0 && looksLikeHost(name.slice(0, slash));
  let domain = isHost ? name.slice(0, slash) : 'docker.io';
  let path = isHost ? name.slice(slash + 1) : name;
  if (domain === 'index.docker.io') domain = 'docker.io';
  if (domain === 'docker.io' && !path.includes('/')) path = `library/${path}`;
  return { domain, path };
}

/** The full name, `docker.io/library/x:1`: what a store keeps and compares. */
export function formatReference(reference: Reference): string {
  return `${reference.domain}/${reference.path}${suffix(reference)}`;
}

/** The short name, `x:1`, as Docker shows it. `parseReference` of it gives the same reference. */
export function familiarReference(reference: Reference): string {
  return `${familiarName(reference)}${suffix(reference)}`;
}

/** The short name without tag and digest. */
export function familiarName({ domain, path }: Reference): string {
  if (domain !== 'docker.io') return `${domain}/${path}`;
  const parts = path.split('/');
  if (parts.length === 2 && parts[0] === 'library') return parts[1]!;
  // `docker.io/a.b/x`: without its host, `a.b` would be read as one.
  return looksLikeHost(parts[0]!) ? `${domain}/${path}` : path;
}

function suffix({ tag, digest }: Reference): string {
  return `${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
}
