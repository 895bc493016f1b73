import { expect, is, type Kind, listOf, NUMBER, options, record, SIGNAL, SOURCE, TEXT, word } from './base/kinds.ts';
import type { Abortable, ByteStream, Bytes } from './base/values.ts';
import { layerBlob as blobOf, layerTar as tarOf } from './transport/layer-streams.ts';
import { openAny } from './transport/open-any.ts';
import type { ArchivedImage, ArchivedLayer, ImageArchive } from './transport/source.ts';
import {
  writeArchive as archiveOf,
  writeLayout as layoutOf,
  type NewImage,
  type WriteOptions,
} from './transport/write-images.ts';

// Public names of `layerstore/oci`: images as plain data, and layouts and docker archives to read and write them. Any
// system with Node: nothing of Linux is loaded.

export type { ByteString } from './base/bytes.ts';
export { asDigest, type Digest } from './base/digest.ts';
export { type ErrorCode, type ErrorFacts, isStorageError, StorageError } from './base/errors.ts';
export type { Abortable, ByteStream, Bytes } from './base/values.ts';
export { chainId, chainIds } from './oci/chain-id.ts';
export { applyChanges } from './oci/change.ts';
export type { HistoryEntry, ImageConfig } from './oci/config.ts';
export { CONFIG_BYTES_MAX, parseConfig } from './oci/config.ts';
export type { Descriptor } from './oci/descriptor.ts';
export { parseDescriptor } from './oci/descriptor.ts';
export type { CommitBase, CommitOptions } from './oci/image.ts';
export { commitConfig } from './oci/image.ts';
export type { JsonObject, JsonValue } from './oci/json.ts';
export { own } from './oci/json.ts';
export type { EncodedManifest, Index, Manifest } from './oci/manifest.ts';
export { encodeManifest, LAYERS_MAX, MANIFEST_BYTES_MAX, parseManifest } from './oci/manifest.ts';
export type { MediaKind } from './oci/media-type.ts';
export { mediaKind, OCI_CONFIG, OCI_INDEX, OCI_LAYER_TAR, OCI_MANIFEST } from './oci/media-type.ts';
export type { Platform } from './oci/platform.ts';
export { defaultPlatform, formatPlatform, normalizePlatform, parsePlatform, platformRank } from './oci/platform.ts';
export type { Reference } from './oci/reference.ts';
export { familiarName, familiarReference, formatReference, isTag, parseReference } from './oci/reference.ts';
export type { ArchivedImage, ArchivedLayer, BlobSource, ImageArchive, ImagesOptions } from './transport/source.ts';
export type { NewImage, NewLayer, WriteOptions } from './transport/write-images.ts';

const ABORTABLE = options({ signal: SIGNAL });
const IMAGES: Kind = listOf(
  record({
    names: listOf(TEXT),
    layers: listOf(record({})),
    config: is(
      'a Uint8Array, or the config of an archived image',
      (value) => typeof value === 'object' && value !== null,
    ),
  }),
);
const WRITE: Kind = options({ signal: SIGNAL, format: word('oci', 'docker'), epochSeconds: NUMBER });
const LAYER: Kind = record({ blob: record({ fd: NUMBER, offset: NUMBER, length: NUMBER }), diffId: TEXT });

/**
 * Opens images where they lie: an OCI layout directory, a layout's tar, a docker archive; a path or a stream, plain, gzip
 * or zstd. Documents are verified when they are read, layers when they are. Errors: `not-found`, `permission-denied`,
 * `unsupported` for what is no archive of images, `corrupt` for a broken one.
 * @example await using archive = await openArchive('app.tar');
 * for (const image of archive.images()) console.log(image.names, image.config.digest);
 */
export async function openArchive(source: Bytes, options: Abortable = {}): Promise<ImageArchive> {
  expect(
    'openArchive',
    [
      ['source', SOURCE],
      ['options', ABORTABLE],
    ],
    [source, options],
  );
  return openAny(source, options);
}

/**
 * A layer as its archive holds it, perhaps compressed; what is not of the digest that is claimed for it is `corrupt` at
 * the end.
 */
export function layerBlob(layer: ArchivedLayer, options: Abortable = {}): ByteStream {
  expect(
    'layerBlob',
    [
      ['layer', LAYER],
      ['options', ABORTABLE],
    ],
    [layer, options],
  );
  return blobOf(layer, options);
}

/** A layer's tar, unpacked; what is not of its diff id is `corrupt` at the end. */
export function layerTar(layer: ArchivedLayer, options: Abortable = {}): ByteStream {
  expect(
    'layerTar',
    [
      ['layer', LAYER],
      ['options', ABORTABLE],
    ],
    [layer, options],
  );
  return tarOf(layer, options);
}

/**
 * An archive of images, as bytes: of those that an open archive holds, and of new ones. In the form `oci` what came from a
 * layout keeps its manifest and its blobs, to the byte. Contents are compared with what is claimed of them: `corrupt`.
 * @example await pipeline(writeArchive(archive.images(), { format: 'docker' }), createWriteStream('docker.tar'));
 */
export function writeArchive(images: readonly (ArchivedImage | NewImage)[], options: WriteOptions = {}): ByteStream {
  expect(
    'writeArchive',
    [
      ['images', IMAGES],
      ['options', WRITE],
    ],
    [images, options],
  );
  return archiveOf(images, options);
}

/** As `writeArchive`, an OCI layout in a directory that is empty or absent; on failure it is left as it was. */
export async function writeLayout(
  images: readonly (ArchivedImage | NewImage)[],
  directory: string,
  options: Abortable = {},
): Promise<void> {
  expect(
    'writeLayout',
    [
      ['images', IMAGES],
      ['directory', TEXT],
      ['options', ABORTABLE],
    ],
    [images, directory, options],
  );
  return layoutOf(images, directory, options);
}
