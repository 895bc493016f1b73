import type { Digest } from '../base/digest.ts';
import { parseDigest } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import { parsePlatformObject } from './descriptor.ts';
import type { JsonObject } from './json.ts';
import { asObject, corrupt, listAt, objectAt, own, parseJsonObject, shown, textAt } from './json.ts';
import { LAYERS_MAX } from './manifest.ts';
import type { Platform } from './platform.ts';

/** Configs are read up to here. */
export const CONFIG_BYTES_MAX: number = 16 << 20;

/** One step of an image's making; where `emptyLayer` is false it made a layer. */
export interface HistoryEntry {
  readonly created?: string;
  readonly createdBy?: string;
  readonly author?: string;
  readonly comment?: string;
  readonly emptyLayer: boolean;
}

/** A view of an image's config. Its identity is the digest of the bytes, which the caller keeps as they came. */
export interface ImageConfig {
  /** Absent where the config does not say, as some tools leave it. */
  readonly platform?: Platform;
  /** RFC 3339, as written. */
  readonly created?: string;
  /** Digests of the layers' uncompressed tars, base first. */
  readonly diffIds: readonly Digest[];
  /** Oldest first; need not fit the layers. */
  readonly history: readonly HistoryEntry[];
  /** The whole document: read it through `own`. */
  readonly json: JsonObject;
}

/** Reads an image config, OCI's or Docker's. What does not fit is `corrupt`; `what` names it. */
export function parseConfig(bytes: Uint8Array, what: string): ImageConfig {
  const json = parseJsonObject(bytes, what, CONFIG_BYTES_MAX);
  const rootfs = objectAt(json, 'rootfs', what);
  if (rootfs === undefined) throw corrupt(what, 'it has no rootfs, so it is not an image config');
  const type = textAt(rootfs, 'type', `rootfs of ${what}`);
  if (type !== undefined && type !== 'layers') {
    throw new StorageError('unsupported', `Cannot read ${what}: its rootfs is of type ${shown(type)}, not "layers"`);
  }
  const ids = listAt(rootfs, 'diff_ids', what);
  if (ids.length > LAYERS_MAX) throw corrupt(what, `it has ${ids.length} diff ids, at most ${LAYERS_MAX} are read`);
  const platform = parsePlatformObject(json, what);
  const created = textAt(json, 'created', what);
  return {
    ...(platform === undefined ? {} : { platform }),
    ...(created === undefined ? {} : { created }),
    diffIds: ids.map((id, i) => parseDigest(id, `diff id ${i + 1} of ${what}`)),
    history: listAt(json, 'history', what).map((one, i) =>
      parseHistory(asObject(one, `history entry ${i + 1} of ${what}`), what),
    ),
    json,
  };
}

function parseHistory(entry: JsonObject, what: string): HistoryEntry {
  const created = textAt(entry, 'created', what);
  const createdBy = textAt(entry, 'created_by', what);
  const author = textAt(entry, 'author', what);
  const comment = textAt(entry, 'comment', what);
  const empty = own(entry, 'empty_layer') ?? false;
  if (typeof empty !== 'boolean') throw corrupt(what, '"empty_layer" is not true or false');
  return {
    ...(created === undefined ? {} : { created }),
    ...(createdBy === undefined ? {} : { createdBy }),
    ...(author === undefined ? {} : { author }),
    ...(comment === undefined ? {} : { comment }),
    emptyLayer: empty,
  };
}
