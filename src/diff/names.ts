import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { WHITEOUT_PREFIX } from '../fs/whiteouts.ts';

const ROOT = '' as ByteString;
/** Bytes of one part of a path. */
export const COMPONENT_BYTES_MAX = 255; // NAME_MAX of every filesystem that can hold a layer

/**
 * An archive's name as a path below the layer's root: no leading, trailing or doubled slash, no `.`, and `..` clamped
 * at the root as a chroot would. The root is the empty path.
 */
export function cleanName(name: ByteString): ByteString {
  if (isClean(name)) return name;
  const parts: string[] = [];
  for (const part of name.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..') parts.pop();
    else if (lengthOnDisk(part) > COMPONENT_BYTES_MAX) {
      throw new StorageError(
        'corrupt',
        `Cannot unpack ${quote(name.slice(0, 200) as ByteString)}…: a part of the name has ${part.length} bytes, ${COMPONENT_BYTES_MAX} is the most`,
      );
    } else parts.push(part);
  }
  return parts.join('/') as ByteString;
}

/** A whiteout lies under the name that it deletes. */
function lengthOnDisk(part: string): number {
  return part.startsWith(WHITEOUT_PREFIX) ? part.length - WHITEOUT_PREFIX.length : part.length;
}

// The usual case without splitting: short, no empty part, no part that begins with a dot.
function isClean(name: ByteString): boolean {
  return (
    name.length > 0 &&
    name.length <= COMPONENT_BYTES_MAX &&
    !name.startsWith('/') &&
    !name.endsWith('/') &&
    !name.startsWith('.') &&
    !name.includes('//') &&
    !name.includes('/.')
  );
}

/** The path above; the root's is the root. */
export function parentPath(path: ByteString): ByteString {
  const slash = path.lastIndexOf('/');
  return slash < 0 ? ROOT : (path.slice(0, slash) as ByteString);
}

/** The last part. */
export function baseName(path: ByteString): ByteString {
  return path.slice(path.lastIndexOf('/') + 1) as ByteString;
}

export function joinPath(parent: ByteString, name: ByteString): ByteString {
  return parent === '' ? name : (`${parent}/${name}` as ByteString);
}
