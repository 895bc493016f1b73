/** Public names of `layerstore/oci`: the image model as plain data, without I/O. */

export { chainId, chainIds } from './chain-id.ts';
export { applyChanges } from './change.ts';
export type { HistoryEntry, ImageConfig } from './config.ts';
export { CONFIG_BYTES_MAX, parseConfig } from './config.ts';
export type { Descriptor } from './descriptor.ts';
export { parseDescriptor } from './descriptor.ts';
export type { CommitBase, CommitOptions } from './image.ts';
export { commitConfig } from './image.ts';
export type { JsonObject, JsonValue } from './json.ts';
export { own } from './json.ts';
export type { EncodedManifest, Index, Manifest } from './manifest.ts';
export { encodeManifest, LAYERS_MAX, MANIFEST_BYTES_MAX, parseManifest } from './manifest.ts';
export type { MediaKind } from './media-type.ts';
export { mediaKind, OCI_CONFIG, OCI_INDEX, OCI_LAYER_TAR, OCI_MANIFEST } from './media-type.ts';
export type { Platform } from './platform.ts';
export { defaultPlatform, formatPlatform, normalizePlatform, parsePlatform, platformRank } from './platform.ts';
export type { Reference } from './reference.ts';
export { familiarName, familiarReference, formatReference, isTag, parseReference } from './reference.ts';
