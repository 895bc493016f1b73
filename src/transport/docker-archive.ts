import type { Digest } from '../base/digest.ts';
import { asDigest, digestOf } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import { CONFIG_BYTES_MAX, parseConfig } from '../oci/config.ts';
import type { JsonObject } from '../oci/json.ts';
import { asObject, corrupt, parseJson, shown, textAt, textsAt } from '../oci/json.ts';
import { LAYERS_MAX, MANIFEST_BYTES_MAX } from '../oci/manifest.ts';
import { formatPlatform, platformRank } from '../oci/platform.ts';
import { formatReference, parseReference } from '../oci/reference.ts';
import type { Documents } from './documents.ts';
import { MissingBlob } from './documents.ts';
import type { TarMembers } from './member-index.ts';
import { memberName } from './member-index.ts';
import type { ArchivedImage, ArchivedLayer, BlobSource, ImagesOptions } from './source.ts';

/** One image of a manifest.json. */
export interface DockerEntry {
  readonly config: string;
  /** Full references. */
  readonly names: readonly string[];
  /** Member names, base first. */
  readonly layers: readonly string[];
}

/** Reads manifest.json; without one there are no entries. */
export function dockerEntries(docs: Documents): readonly DockerEntry[] {
  const what = 'manifest.json';
  const bytes = docs.named(what, what, MANIFEST_BYTES_MAX);
  if (bytes === undefined) return [];
  const list = parseJson(bytes, what, MANIFEST_BYTES_MAX);
  if (!Array.isArray(list)) throw corrupt(what, 'it is not a list of images');
  return list.map((one: unknown, i) => parseEntry(asObject(one as JsonObject, `image ${i + 1} of ${what}`), what));
}

function parseEntry(entry: JsonObject, what: string): DockerEntry {
  const config = textAt(entry, 'Config', what);
  if (config === undefined || config === '') throw corrupt(what, 'an image of it has no "Config"');
  const layers = textsAt(entry, 'Layers', what);
  if (layers.length > LAYERS_MAX)
    throw corrupt(what, `an image has ${layers.length} layers, at most ${LAYERS_MAX} are read`);
  const names = textsAt(entry, 'RepoTags', what).map((tag) => {
    try {
      return formatReference(parseReference(tag));
    } catch (cause) {
      throw corrupt(what, `${shown(tag)} is not an image name`, cause);
    }
  });
  return { config, names: [...new Set(names)], layers };
}

/** The images of an archive as `docker save` wrote it before it wrote layouts, and skopeo, podman, crane, kaniko… do. */
export function dockerImages(
  docs: Documents,
  members: TarMembers,
  options: ImagesOptions = {},
): readonly ArchivedImage[] {
  const entries = dockerEntries(docs);
  if (entries.length === 0) throw new StorageError('unsupported', 'Cannot read manifest.json: it lists no image');
  const images = new Map<Digest, ArchivedImage>();
  for (const entry of entries) {
    const image = readImage(docs, members, entry, options);
    const known = images.get(image.config.digest);
    const names = [...new Set([...(known?.names ?? []), ...image.names])];
    images.set(image.config.digest, { ...image, names });
  }
  return [...images.values()];
}

/** The digest that a member's name claims: `HEX.json`, `sha256:HEX`, `blobs/sha256/HEX`. */
export function claimedDigest(name: string): Digest | undefined {
  const hex = /^(?:blobs\/sha256\/|sha256:)?([0-9a-f]{64})(?:\.json)?$/.exec(name)?.[1];
  return hex === undefined ? undefined : asDigest(`sha256:${hex}`);
}

function readImage(
  docs: Documents,
  members: TarMembers,
  entry: DockerEntry,
  { platform }: ImagesOptions,
): ArchivedImage {
  const what = `config ${shown(entry.config)}`;
  const name = memberName(entry.config);
  const bytes = docs.named(name, what, CONFIG_BYTES_MAX);
  if (bytes === undefined) throw missing(entry.config);
  const digest = digestOf(bytes);
  const claimed = claimedDigest(name);
  if (claimed !== undefined && claimed !== digest) {
    throw new StorageError('corrupt', `Cannot read ${what}: its content has the digest ${digest}`, {
      expected: claimed,
      actual: digest,
    });
  }
  const config = parseConfig(bytes, what);
  if (
    platform !== undefined &&
    (config.platform === undefined || platformRank(platform, config.platform) === undefined)
  ) {
    const have = config.platform === undefined ? 'it does not say' : formatPlatform(config.platform);
    throw new StorageError(
      'not-found',
      `Cannot take ${formatPlatform(platform)} from manifest.json: it holds an image for ${shown(have)}`,
    );
  }
  if (config.diffIds.length !== entry.layers.length) {
    const counts = `${entry.layers.length} layers, its config has ${config.diffIds.length} diff ids`;
    throw corrupt('manifest.json', `the image ${shown(entry.config)} has ${counts}`);
  }
  const layers = entry.layers.map((layer, i): ArchivedLayer => {
    const blob = layerBlob(members, layer);
    const claim = layer.startsWith('blobs/sha256/') ? claimedDigest(layer) : undefined;
    return { blob, diffId: config.diffIds[i]!, ...(claim === undefined ? {} : { digest: claim }) };
  });
  return {
    names: entry.names,
    ...(config.platform === undefined ? {} : { platform: config.platform }),
    config: { bytes, digest },
    layers,
  };
}

/**
 * Docker up to 24 writes a layer that several images share once, and `ID/layer.tar` as a symlink to it in the others;
 * only these are followed.
 */
function layerBlob(members: TarMembers, layer: string): BlobSource {
  const name = memberName(layer);
  const blob = name.endsWith('/layer.tar') ? members.follow(name) : members.find(name);
  if (blob === undefined) throw missing(layer);
  return blob;
}

function missing(name: string): StorageError {
  return new MissingBlob('corrupt', `Cannot read manifest.json: the archive does not hold ${shown(name)}`);
}
