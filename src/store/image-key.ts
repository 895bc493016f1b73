import { asDigest } from '../base/digest.ts';
import { isStorageError } from '../base/errors.ts';
import { formatReference, parseReference } from '../oci/reference.ts';
import type { ImageKey } from './rows.ts';

/** What a name given by a person may mean: a reference, or the beginning of an id; a whole id is never a reference. */
export function imageKey(text: string): ImageKey {
  if (asDigest(text) !== undefined) return { text, prefix: text };
  const hex = /^(?:sha256:)?([0-9a-f]{1,64})$/.exec(text)?.[1];
  const reference = referenceOf(text);
  return {
    text,
    ...(reference === undefined ? {} : { reference }),
    ...(hex === undefined ? {} : { prefix: `sha256:${hex}` }),
  };
}

function referenceOf(text: string): string | undefined {
  try {
    return formatReference(parseReference(text));
  } catch (error) {
    if (isStorageError(error, 'invalid-argument')) return undefined; // then it can only be an id, or is not found
    throw error;
  }
}
