import type { Digest } from '../base/digest.ts';
import { digestOf } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import type { Descriptor } from './descriptor.ts';
import { parseDescriptor } from './descriptor.ts';
import { corrupt, listAt, own, parseJsonObject, shown, textAt, textMapAt } from './json.ts';
import { mediaKind, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST } from './media-type.ts';

/** Manifests and indexes are read up to here, as registries and containerd do. */
export const MANIFEST_BYTES_MAX: number = 4 << 20;
/** Layers of one image that are read. */
export const LAYERS_MAX = 2000;

/** An image manifest: its config and layers. */
export interface Manifest {
  readonly kind: 'manifest';
  readonly mediaType: string;
  readonly config: Descriptor;
  /** Base first. */
  readonly layers: readonly Descriptor[];
  readonly annotations: ReadonlyMap<string, string>;
}

/** An index: manifests, usually of one image for several platforms. */
export interface Index {
  readonly kind: 'index';
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
  readonly annotations: ReadonlyMap<string, string>;
}

/**
 * Reads an image manifest or an index, OCI's or Docker's v2s2. `mediaType` is what the descriptor that led here said;
 * a document that says otherwise is `corrupt`, and so is one that could be read as either (CVE-2021-41190), whatever
 * it says it is. Schema 1 is `unsupported`.
 */
export function parseManifest(bytes: Uint8Array, what: string, mediaType?: string): Manifest | Index {
  const object = parseJsonObject(bytes, what, MANIFEST_BYTES_MAX);
  const isIndex = Object.hasOwn(object, 'manifests');
  const isManifest = Object.hasOwn(object, 'config') || Object.hasOwn(object, 'layers');
  if (isIndex && isManifest) throw corrupt(what, 'it is a manifest and an index at once');
  const version = own(object, 'schemaVersion');
  if (version === 1 || Object.hasOwn(object, 'fsLayers')) {
    throw new StorageError(
      'unsupported',
      `Cannot read ${what}: it is a schema 1 manifest, made for Docker before 1.10`,
    );
  }
  if (version !== 2) throw corrupt(what, 'its schemaVersion is not 2');
  if (!isIndex && !isManifest) throw corrupt(what, 'it is neither a manifest nor an index');

  const kind = isIndex ? 'index' : 'manifest';
  const says = textAt(object, 'mediaType', what);
  for (const claimed of [says, mediaType]) {
    if (claimed !== undefined && claimed !== '' && mediaKind(claimed) !== kind) {
      throw corrupt(
        what,
        `its content is an ${isIndex ? 'index' : 'image manifest'}, its media type is ${shown(claimed)}`,
      );
    }
  }
  if (says !== undefined && says !== '' && mediaType !== undefined && says !== mediaType) {
    throw corrupt(what, `it says it is ${shown(says)}, what refers to it says ${shown(mediaType)}`);
  }
  const annotations = textMapAt(object, 'annotations', what);
  if (isIndex) {
    const manifests = listAt(object, 'manifests', what).map((one, i) =>
      parseDescriptor(one, `manifest ${i + 1} of ${what}`),
    );
    return { kind: 'index', mediaType: mediaType ?? (says || OCI_INDEX), manifests, annotations };
  }
  const list = listAt(object, 'layers', what);
  if (list.length > LAYERS_MAX) throw corrupt(what, `it has ${list.length} layers, at most ${LAYERS_MAX} are read`);
  return {
    kind: 'manifest',
    mediaType: mediaType ?? (says || OCI_MANIFEST),
    config: parseDescriptor(own(object, 'config'), `the config of ${what}`),
    layers: list.map((one, i) => parseDescriptor(one, `layer ${i + 1} of ${what}`)),
    annotations,
  };
}

/** A manifest as bytes, with what a descriptor says of it. */
export interface EncodedManifest {
  readonly bytes: Buffer;
  readonly digest: Digest;
  readonly mediaType: string;
}

/** An OCI manifest of an image config and its layers, base first: equal arguments give equal bytes. */
export function encodeManifest(
  config: Uint8Array,
  layers: readonly Pick<Descriptor, 'mediaType' | 'digest' | 'sizeBytes'>[],
): EncodedManifest {
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: OCI_MANIFEST,
      config: { mediaType: OCI_CONFIG, digest: digestOf(config), size: config.length },
      layers: layers.map(({ mediaType, digest, sizeBytes }) => ({ mediaType, digest, size: sizeBytes })),
    }),
  );
  return { bytes, digest: digestOf(bytes), mediaType: OCI_MANIFEST };
}
