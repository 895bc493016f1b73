import { StorageError } from '../base/errors.ts';
import { shown } from './json.ts';

/** Of an index. */
export const OCI_INDEX = 'application/vnd.oci.image.index.v1+json';
/** Of an image manifest. */
export const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
/** Of an image config. */
export const OCI_CONFIG = 'application/vnd.oci.image.config.v1+json';
/** Of an uncompressed layer. */
export const OCI_LAYER_TAR = 'application/vnd.oci.image.layer.v1.tar';

/** What a document or blob of an image can be. */
export type MediaKind = 'index' | 'manifest' | 'config' | 'layer';

/** OCI image-spec 1.1 media-types.md, and Docker's image manifest v2 schema 2, which it says are the same documents. */
const KINDS: ReadonlyMap<string, MediaKind> = new Map<string, MediaKind>([
  [OCI_INDEX, 'index'],
  ['application/vnd.docker.distribution.manifest.list.v2+json', 'index'],
  [OCI_MANIFEST, 'manifest'],
  ['application/vnd.docker.distribution.manifest.v2+json', 'manifest'],
  [OCI_CONFIG, 'config'],
  ['application/vnd.docker.container.image.v1+json', 'config'],
  [OCI_LAYER_TAR, 'layer'],
  ['application/vnd.oci.image.layer.v1.tar+gzip', 'layer'],
  ['application/vnd.oci.image.layer.v1.tar+zstd', 'layer'],
  ['application/vnd.oci.image.layer.nondistributable.v1.tar', 'layer'],
  ['application/vnd.oci.image.layer.nondistributable.v1.tar+gzip', 'layer'],
  ['application/vnd.oci.image.layer.nondistributable.v1.tar+zstd', 'layer'],
  ['application/vnd.docker.image.rootfs.diff.tar', 'layer'],
  ['application/vnd.docker.image.rootfs.diff.tar.gzip', 'layer'],
  ['application/vnd.docker.image.rootfs.diff.tar.zstd', 'layer'],
  ['application/vnd.docker.image.rootfs.foreign.diff.tar', 'layer'],
  ['application/vnd.docker.image.rootfs.foreign.diff.tar.gzip', 'layer'],
]);

/** What a media type stands for, or undefined for one that is not an image's. Exact case, no parameters. */
export function mediaKind(mediaType: string): MediaKind | undefined {
  return KINDS.get(mediaType);
}

/** Refuses (`unsupported`) a media type that is not one of `kind`, where `what` is used as one. */
export function requireKind(mediaType: string, kind: MediaKind, what: string): void {
  if (KINDS.get(mediaType) !== kind) throw unknownType(mediaType, kind, what);
}

function unknownType(mediaType: string, kind: MediaKind, what: string): StorageError {
  return new StorageError(
    'unsupported',
    `Cannot use ${what} as ${kind === 'index' ? 'an' : 'a'} ${kind}: its media type ${shown(mediaType)} is not one that layerstore knows`,
  );
}
