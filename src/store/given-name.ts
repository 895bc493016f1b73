import { StorageError } from '../base/errors.ts';
import { formatReference, parseReference } from '../oci/reference.ts';

/** The full reference of a name that a person gives an image. A digest in it would claim a content: `invalid-argument`. */
export function givenName(text: string): string {
  const reference = parseReference(text);
  if (reference.digest === undefined && !/^sha256:/.test(text)) return formatReference(reference);
  throw new StorageError(
    'invalid-argument',
    `Cannot name an image ${JSON.stringify(text)}: a digest is what an image has, not a name to give; use NAME:TAG`,
  );
}

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;

/** The name of a writable layer: what a command line, a path and a list can hold, and `cp` can tell from a path. */
export function layerName(text: string): string {
  if (NAME.test(text)) return text;
  throw new StorageError(
    'invalid-argument',
    `Cannot name a layer ${JSON.stringify(text.slice(0, 200))}: a name is 1 to 128 of A-Z, a-z, 0-9, "_", "." and "-", the first a letter or digit`,
  );
}
