import { deserialize, serialize } from 'node:v8';
import type { ByteString } from '../base/bytes.ts';
import { type Directories, decodeDirectories, type EncodedDirectories } from './directories.ts';

// What is left to do on a layer once its own entries are in place, as bytes: the layers below it may be unpacked at the
// same time, so settling comes later and perhaps in another thread. Columns, nothing nested: trees may be 30,000 levels deep.

/** A file that stands in for a lower layer's until the fix-ups fill it, so that links to it can be made at once. */
export interface Placeholder {
  readonly path: ByteString;
  readonly ino: number;
  /** The entry that wanted it, for errors. */
  readonly wantedBy: ByteString;
  /** Its path and those that were linked to it, until another entry is made there. */
  readonly names: Set<ByteString>;
}

/** A layer whose directories that need something from below are not yet as they will be. */
export interface Unsettled {
  /** The root, and those that are unsettled or lead to such. */
  readonly directories: Directories;
  readonly placeholders: readonly Placeholder[];
}

/** Law: `decode(encode(u))` is equal to `u`. */
export function encodeUnsettled({ directories, placeholders }: Unsettled): Uint8Array {
  return serialize({ directories: directories.encode(), placeholders });
}

export function decodeUnsettled(bytes: Uint8Array): Unsettled {
  const { directories, placeholders } = deserialize(bytes) as {
    directories: EncodedDirectories;
    placeholders: Placeholder[];
  };
  return { directories: decodeDirectories(directories), placeholders };
}
