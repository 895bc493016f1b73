import { deserialize, serialize } from 'node:v8';
import type { ByteString } from '../base/bytes.ts';
import { type LayerDirectory, newDirectory } from './layer-tree.ts';

// What is left to do on a layer once its own entries are in place, as bytes: the layers below it may be unpacked at the
// same time, so settling comes later and perhaps in another thread. Flat, not nested: trees may be 30,000 levels deep.

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
  /** The root, with those children that are unsettled or lead to such. */
  readonly top: LayerDirectory;
  readonly placeholders: readonly Placeholder[];
}

interface Flat extends Omit<LayerDirectory, 'parent' | 'children'> {
  /** Index in the list; the root, which comes first, has none. */
  readonly parent: number;
}

/** Law: `decode(encode(u))` is equal to `u`. */
export function encodeUnsettled({ top, placeholders }: Unsettled): Uint8Array {
  const flat: Flat[] = [];
  const add = ({ parent: _, children: __, ...rest }: LayerDirectory, parent: number): void => {
    flat.push({ ...rest, parent });
  };
  add(top, -1);
  for (let todo = [{ directory: top, index: 0 }]; todo.length > 0; ) {
    const next: typeof todo = [];
    for (const { directory, index } of todo) {
      for (const child of directory.children?.values() ?? []) {
        next.push({ directory: child, index: flat.length });
        add(child, index);
      }
    }
    todo = next;
  }
  return serialize({ flat, placeholders });
}

export function decodeUnsettled(bytes: Uint8Array): Unsettled {
  const { flat, placeholders } = deserialize(bytes) as { flat: Flat[]; placeholders: Placeholder[] };
  const directories: LayerDirectory[] = [];
  for (const { parent: at, name, ...rest } of flat) {
    const parent = directories[at];
    const directory = Object.assign(newDirectory(parent, name, false), rest);
    directories.push(directory);
    if (parent === undefined) continue;
    parent.children ??= new Map();
    parent.children.set(name, directory);
  }
  return { top: directories[0] as LayerDirectory, placeholders };
}
