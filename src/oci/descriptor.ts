import type { Digest } from '../base/digest.ts';
import { parseDigest } from '../base/digest.ts';
import type { JsonObject, JsonValue } from './json.ts';
import { asObject, corrupt, objectAt, own, textAt, textMapAt, textsAt } from './json.ts';
import type { Platform } from './platform.ts';
import { normalizePlatform } from './platform.ts';

/** A reference to bytes by what they are. `sizeBytes` is what it claims; whoever opens the bytes compares. */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly sizeBytes: number;
  /** Where the bytes may be had; never fetched by us. */
  readonly urls: readonly string[];
  readonly platform?: Platform;
  /** What kind of artifact a manifest is, where it is not an image's. */
  readonly artifactType?: string;
  readonly annotations: ReadonlyMap<string, string>;
}

/** Reads a descriptor (OCI image-spec descriptor.md). What does not fit is `corrupt`; `what` names it. */
export function parseDescriptor(value: JsonValue | undefined, what: string): Descriptor {
  const object = asObject(value, what);
  const mediaType = textAt(object, 'mediaType', what);
  if (mediaType === undefined || mediaType === '') throw corrupt(what, 'it has no media type');
  const platform = parsePlatformObject(objectAt(object, 'platform', what), what);
  const artifactType = textAt(object, 'artifactType', what);
  return {
    mediaType,
    digest: parseDigest(own(object, 'digest'), `the digest of ${what}`),
    sizeBytes: parseSize(own(object, 'size'), what),
    urls: textsAt(object, 'urls', what),
    ...(platform === undefined ? {} : { platform }),
    ...(artifactType === undefined ? {} : { artifactType }),
    annotations: textMapAt(object, 'annotations', what),
  };
}

/** The platform that `os`, `architecture` and `variant` of a descriptor or an image config give, if both first are there. */
export function parsePlatformObject(object: JsonObject | undefined, what: string): Platform | undefined {
  if (object === undefined) return undefined;
  const os = textAt(object, 'os', what);
  const architecture = textAt(object, 'architecture', what);
  const variant = textAt(object, 'variant', what);
  return os === undefined || os === '' || architecture === undefined || architecture === ''
    ? undefined
    : normalizePlatform(os, architecture, variant);
}

function parseSize(value: JsonValue | undefined, what: string): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  throw corrupt(what, `its size ${String(JSON.stringify(value)).slice(0, 40)} is not a whole number of bytes`);
}
