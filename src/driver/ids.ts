import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';

const NAME_BYTES_MAX = 255;
const RESERVED: ReadonlySet<string> = new Set(['l', 'backingFsBlockDev']);

/**
 * Narrows a name from outside to a layer's id: one path component of 1 to 255 bytes that means nothing else in a
 * driver's home. Otherwise `invalid-argument` that says which rule it breaks.
 */
export function parseLayerId(name: ByteString | LayerId): LayerId {
  const why = fault(name);
  if (why === undefined) return name as string as LayerId;
  throw new StorageError('invalid-argument', `Cannot use ${quote(name as ByteString)} as a layer id: ${why}`);
}

/** Whether a name read from a home is a layer's id. */
export function isLayerId(name: ByteString): boolean {
  return fault(name) === undefined;
}

function fault(name: string): string | undefined {
  if (name === '') return 'it is empty';
  if (name.length > NAME_BYTES_MAX) return `it has ${name.length} bytes, at most ${NAME_BYTES_MAX} are possible`;
  if (/[/\0\n]/.test(name)) return 'it holds a slash, a NUL or a newline';
  if (/[^\0-\xff]/.test(name)) return 'it is not a byte string';
  if (name.startsWith('.')) return 'it begins with a dot';
  if (name.endsWith('-removing')) return 'it ends in "-removing", which marks what is being removed';
  if (RESERVED.has(name)) return 'the name has a meaning of its own in a driver home';
  return undefined;
}
