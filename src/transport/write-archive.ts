import { fromText } from '../base/bytes.ts';
import type { Digest } from '../base/digest.ts';
import { digestOf, hexOf } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import type { ByteStream } from '../base/values.ts';
import { parseConfig } from '../oci/config.ts';
import { shown } from '../oci/json.ts';
import { type EncodedManifest, encodeManifest } from '../oci/manifest.ts';
import { OCI_INDEX, OCI_LAYER_TAR } from '../oci/media-type.ts';
import type { Reference } from '../oci/reference.ts';
import { familiarName, formatReference, parseReference } from '../oci/reference.ts';
import { encodeEntry, paddingFor, trailer } from '../tar/write.ts';
import { blobName } from './documents.ts';
import { NAME_ANNOTATION, REF_ANNOTATION } from './layout.ts';

/** A layer's blob: an uncompressed tar, whose digest is its diff id, unless it says otherwise. */
export interface LayerToSave {
  readonly diffId: Digest;
  readonly sizeBytes: number;
  /** Of the blob as it is written, for layouts only. */
  readonly digest?: Digest;
  readonly mediaType?: string;
}

export interface ImageToSave {
  /** References; none makes an image that has only its digest. */
  readonly names: readonly string[];
  /** For an image without names: the tag alone that a layout gives it. */
  readonly tag?: string;
  /** The config's bytes, which are the image's identity and written as they are. */
  readonly config: Uint8Array;
  /** The manifest of a layout, where there is one whose blobs these layers are. */
  readonly manifest?: Omit<EncodedManifest, 'bytes'> & { readonly bytes: Uint8Array };
  /** Base first. */
  readonly layers: readonly LayerToSave[];
}

/** The bytes of a layer's tar, asked for when they are written, once for each layer however many images share it. */
export type OpenLayer = (layer: LayerToSave) => ByteStream;

/** One member of an archive or a layout directory, in the order they are to be written. */
export type ArchiveMember =
  | { readonly type: 'directory'; readonly name: string }
  | {
      readonly type: 'file';
      readonly name: string;
      readonly sizeBytes: number;
      readonly content: Uint8Array | ByteStream;
      /** Whose tar the content is. */
      readonly layer?: LayerToSave;
    };

export interface TarOptions {
  /** Of every member. Default 0, so that equal images give equal bytes. */
  readonly mtimeNs?: bigint;
  readonly signal?: AbortSignal;
}

/** Digest of the manifest that `ociMembers` writes for an image: its layers uncompressed, its config as it is. */
export function savedManifest(image: ImageToSave): Digest {
  return manifestOf(image).digest;
}

/** Members of an OCI image layout directory. */
export function layoutMembers(images: readonly ImageToSave[], open: OpenLayer): readonly ArchiveMember[] {
  const blobs = new Map<Digest, ArchiveMember>();
  const put = (digest: Digest, content: Uint8Array): void => {
    if (blobs.has(digest)) return;
    blobs.set(digest, { type: 'file', name: blobName(digest), sizeBytes: content.length, content });
  };
  const entries = images.flatMap((image) => {
    const manifest = manifestOf(image);
    for (const layer of image.layers) {
      const digest = digestOfBlob(layer);
      if (!blobs.has(digest)) blobs.set(digest, layerMember(blobName(digest), layer, open));
    }
    put(digestOf(image.config), image.config);
    put(manifest.digest, manifest.bytes);
    const { platform } = parseConfig(image.config, 'the config of the image');
    const descriptor = { mediaType: manifest.mediaType, digest: manifest.digest, size: manifest.bytes.length };
    const named: readonly (Readonly<Record<string, string>> | undefined)[] = tagged(image.names).map(annotationsOf);
    const alone = image.tag === undefined ? undefined : { [REF_ANNOTATION]: image.tag };
    return (named.length > 0 ? named : [alone]).map((annotations) => ({ ...descriptor, annotations, platform }));
  });
  return [
    text('oci-layout', { imageLayoutVersion: '1.0.0' }),
    text('index.json', { schemaVersion: 2, mediaType: OCI_INDEX, manifests: entries }),
    { type: 'directory', name: 'blobs' },
    { type: 'directory', name: 'blobs/sha256' },
    ...blobs.values(),
  ];
}

/**
 * Members of an OCI layout tar that is a docker archive at once, for Docker before 25. Names are full there too: Docker
 * takes both forms, podman 4.3 makes `localhost/x:1` of a short one (observed).
 */
export function ociMembers(images: readonly ImageToSave[], open: OpenLayer): readonly ArchiveMember[] {
  const manifest = images.map(({ names, config, layers }) => ({
    Config: blobName(digestOf(config)),
    RepoTags: tagged(names).map(formatReference),
    Layers: layers.map((layer) => blobName(digestOfBlob(layer))),
  }));
  const [version, index, ...rest] = layoutMembers(images, open);
  return [version!, index!, text('manifest.json', manifest), ...rest];
}

/** Members of a docker archive, named as skopeo and podman name them: `CONFIGHEX.json` and `DIFFIDHEX.tar`. */
export function dockerMembers(images: readonly ImageToSave[], open: OpenLayer): readonly ArchiveMember[] {
  const members = new Map<string, ArchiveMember>();
  const repositories = new Map<string, Map<string, string>>();
  const manifest = images.map(({ names, config, layers }) => {
    for (const layer of layers) {
      const name = `${hexOf(layer.diffId)}.tar`;
      if (!members.has(name)) members.set(name, layerMember(name, layer, open));
    }
    const name = `${hexOf(digestOf(config))}.json`;
    members.set(name, { type: 'file', name, sizeBytes: config.length, content: config });
    const top = layers.at(-1);
    for (const reference of top === undefined ? [] : tagged(names)) {
      const tags = repositories.get(familiarName(reference)) ?? new Map<string, string>();
      repositories.set(familiarName(reference), tags.set(reference.tag!, hexOf(top!.diffId)));
    }
    return {
      Config: name,
      RepoTags: tagged(names).map(formatReference),
      Layers: layers.map(({ diffId }) => `${hexOf(diffId)}.tar`),
    };
  });
  const tags = Object.fromEntries([...repositories].map(([name, map]) => [name, Object.fromEntries(map)]));
  return [...members.values(), text('manifest.json', manifest), text('repositories', tags)];
}

/** The tar of `members`, owned by root, ended by two zero blocks. Content of another size than said is `corrupt`. */
export async function* tarOf(members: readonly ArchiveMember[], options: TarOptions = {}): ByteStream {
  const { mtimeNs = 0n, signal } = options;
  for (const member of members) {
    signal?.throwIfAborted();
    yield header(member, mtimeNs);
    if (member.type === 'directory') continue;
    let left = member.sizeBytes;
    for await (const part of member.content instanceof Uint8Array ? [member.content] : member.content) {
      signal?.throwIfAborted();
      left -= part.length;
      if (left < 0) break;
      yield part;
    }
    if (left !== 0) {
      const state = `it has ${left < 0 ? 'more' : 'less'} than the ${member.sizeBytes} bytes that were announced`;
      throw new StorageError('corrupt', `Cannot write ${shown(member.name)}: ${state}`);
    }
    yield paddingFor(member.sizeBytes);
  }
  yield trailer();
}

/** A run of an archive: bytes, or the tar of a layer. */
export type Piece = { readonly offset: number } & ({ readonly bytes: Uint8Array } | { readonly layer: LayerToSave });

/** As `tarOf`, for whoever can write at any place: where each part of the archive goes. */
export function* piecesOf(members: readonly ArchiveMember[], options: TarOptions = {}): Generator<Piece> {
  let offset = 0;
  const next = (bytes: Uint8Array): Piece => {
    const piece = { offset, bytes };
    offset += bytes.length;
    return piece;
  };
  for (const member of members) {
    yield next(header(member, options.mtimeNs ?? 0n));
    if (member.type === 'directory') continue;
    if (member.layer !== undefined) {
      yield { offset, layer: member.layer };
      offset += member.sizeBytes;
    } else if (member.content instanceof Uint8Array) {
      yield next(member.content);
    }
    yield next(paddingFor(member.sizeBytes));
  }
  yield next(trailer());
}

/** An OCI layout tar, see `ociMembers`. */
export function planOci(images: readonly ImageToSave[], open: OpenLayer, options: TarOptions = {}): ByteStream {
  return tarOf(ociMembers(images, open), options);
}

/** A docker archive, see `dockerMembers`. */
export function planDocker(images: readonly ImageToSave[], open: OpenLayer, options: TarOptions = {}): ByteStream {
  return tarOf(dockerMembers(images, open), options);
}

function header(member: ArchiveMember, mtimeNs: bigint): Buffer {
  const isFile = member.type === 'file';
  return encodeEntry({
    type: member.type,
    name: fromText(isFile ? member.name : `${member.name}/`),
    linkName: fromText(''),
    mode: isFile ? 0o644 : 0o755,
    uid: 0,
    gid: 0,
    sizeBytes: isFile ? member.sizeBytes : 0,
    mtimeNs,
    devMajor: 0,
    devMinor: 0,
    xattrs: new Map(),
  });
}

function manifestOf({ config, layers, manifest }: ImageToSave): NonNullable<ImageToSave['manifest']> {
  if (manifest !== undefined) return manifest;
  const blobs = layers.map((layer) => {
    return { mediaType: layer.mediaType ?? OCI_LAYER_TAR, digest: digestOfBlob(layer), sizeBytes: layer.sizeBytes };
  });
  return encodeManifest(config, blobs);
}

function digestOfBlob({ digest, diffId }: LayerToSave): Digest {
  return digest ?? diffId;
}

/**
 * The names that can be written, parsed. Digests go: they were of the manifest that came in, not of the one we write.
 */
function tagged(names: readonly string[]): readonly Reference[] {
  return names.map(parseReference).flatMap(({ digest: _, ...name }) => (name.tag === undefined ? [] : [name]));
}

/** As Docker 25 and newer and containerd write them; the tag alone is what the OCI specification means. */
function annotationsOf(name: Reference): Readonly<Record<string, string>> {
  return { [NAME_ANNOTATION]: formatReference(name), [REF_ANNOTATION]: name.tag! };
}

function layerMember(name: string, layer: LayerToSave, open: OpenLayer): ArchiveMember {
  return { type: 'file', name, sizeBytes: layer.sizeBytes, content: later(() => open(layer)), layer };
}

/** Opened when its first byte is wanted. */
async function* later(open: () => ByteStream): ByteStream {
  yield* open();
}

function text(name: string, document: unknown): ArchiveMember {
  const content = Buffer.from(JSON.stringify(document));
  return { type: 'file', name, sizeBytes: content.length, content };
}
