import type { Digest } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import type { ImageConfig } from '../oci/config.ts';
import { CONFIG_BYTES_MAX, parseConfig } from '../oci/config.ts';
import type { Descriptor } from '../oci/descriptor.ts';
import { corrupt, parseJsonObject, shown, textAt } from '../oci/json.ts';
import type { Manifest } from '../oci/manifest.ts';
import { MANIFEST_BYTES_MAX, parseManifest } from '../oci/manifest.ts';
import { mediaKind, requireKind } from '../oci/media-type.ts';
import type { Platform } from '../oci/platform.ts';
import { defaultPlatform, formatPlatform, platformRank } from '../oci/platform.ts';
import { familiarReference, formatReference, isTag, parseReference } from '../oci/reference.ts';
import type { Documents } from './documents.ts';
import { blobName, MissingBlob } from './documents.ts';
import type { ArchivedImage, ArchivedLayer, ImagesOptions } from './source.ts';

/** What names an image in a layout: containerd's (and Docker's) full name, and the specification's name or tag. */
export const NAME_ANNOTATION = 'io.containerd.image.name';
export const REF_ANNOTATION = 'org.opencontainers.image.ref.name';
/** BuildKit puts it on the manifests that describe other manifests; they are no images. */
const ATTESTATION_ANNOTATION = 'vnd.docker.reference.type';
const INDEX_DEPTH_MAX = 8;
/** Key of the entries without a name: neither a reference nor a tag. */
const UNNAMED = '';

/**
 * The images of an OCI layout, in the order of its index. Entries of one name, and all entries without a name, are
 * taken as one index: the platform chooses among them, and may leave several.
 */
export function layoutImages(docs: Documents, { platform }: ImagesOptions = {}): readonly ArchivedImage[] {
  checkVersion(docs);
  const bytes = docs.named('index.json', 'index.json', MANIFEST_BYTES_MAX);
  if (bytes === undefined) throw corrupt('the image layout', 'it has no index.json');
  const index = parseManifest(bytes, 'index.json');
  if (index.kind !== 'index') throw corrupt('index.json', 'it is an image manifest, not an index');

  const groups = new Map<string, Top[]>();
  for (const [at, entry] of index.manifests.entries()) {
    if (!isImage(entry)) continue;
    const top = { entry, at, ...namesOf(entry) };
    const key = top.names[0] ?? (top.tag === undefined ? UNNAMED : `:${top.tag}`);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [top]);
    else group.push(top);
  }
  const chosen = [...groups].flatMap(([key, tops]) => {
    const best = choose(docs, tops, platform, key === UNNAMED ? 'index.json' : `the image ${shown(shortName(key))}`);
    // Entries without a name are no spellings of one image: all that serve the platform equally well are meant. An entry
    // with a name means one image, and several of one name that serve it equally well are several images.
    const seen = new Set<Top>();
    return key === UNNAMED ? best : best.filter(({ top }) => seen.size < seen.add(top).size);
  });
  const images = new Map<Digest, ArchivedImage>();
  for (const { claim, top } of chosen.toSorted((a, b) => a.top.at - b.top.at)) {
    const image = images.get(claim.digest) ?? readImage(docs, claim, top.tag);
    const notes = [...new Set([...(image.notes ?? []), ...top.notes])];
    images.set(claim.digest, {
      ...image,
      names: [...new Set([...image.names, ...top.names])],
      ...(notes.length === 0 ? {} : { notes }),
    });
  }
  if (images.size === 0) throw new StorageError('unsupported', 'Cannot read index.json: it names no container image');
  return [...images.values()];
}

function checkVersion(docs: Documents): void {
  const bytes = docs.named('oci-layout', 'oci-layout', 64 << 10);
  if (bytes === undefined) return; // Some writers leave it out; index.json says all that matters.
  const version = textAt(parseJsonObject(bytes, 'oci-layout', 64 << 10), 'imageLayoutVersion', 'oci-layout');
  if (version === undefined) throw corrupt('oci-layout', 'it has no imageLayoutVersion');
  if (/^1\./.test(version)) return;
  throw new StorageError('unsupported', `Cannot read the image layout: its version is ${shown(version)}, not 1`);
}

/** False for what stands beside images in an index: attestations, signatures, artifacts. */
function isImage({ mediaType, artifactType, platform, annotations }: Descriptor): boolean {
  const kind = mediaKind(mediaType);
  if (kind !== 'manifest' && kind !== 'index') return false;
  if (artifactType !== undefined && artifactType !== '' && mediaKind(artifactType) !== 'config') return false;
  return platform?.os !== 'unknown' && !annotations.has(ATTESTATION_ANNOTATION);
}

interface Names {
  readonly names: readonly string[];
  readonly tag?: string;
  /** What is called a name and is none. */
  readonly notes: readonly string[];
}

/** An entry of index.json, and its place there. */
interface Top extends Names {
  readonly entry: Descriptor;
  readonly at: number;
}

/**
 * Full references from the annotations of an index's entry. What is none is left out, said, and no error: both
 * annotations may hold any text.
 */
function namesOf({ annotations, digest }: Descriptor): Names {
  const names: string[] = [];
  const notes: string[] = [];
  let tag: string | undefined;
  for (const key of [NAME_ANNOTATION, REF_ANNOTATION]) {
    const text = annotations.get(key);
    if (text === undefined) continue;
    // A tag alone names no repository; `parseReference` would take it for one.
    if (key === REF_ANNOTATION && isTag(text)) {
      tag = text;
      continue;
    }
    const name = key === REF_ANNOTATION && !/[/:@]/.test(text) ? undefined : fullName(text, digest);
    if (name === undefined) notes.push(`its ${key} ${shown(text)} is no name that it can have, and is left out`);
    else names.push(name);
  }
  const named = tag === undefined ? names : names.map((name) => retagged(name, tag));
  return { names: [...new Set(named)], notes, ...(tag === undefined || named.length > 0 ? {} : { tag }) };
}

/**
 * The tag that the OCI specification's annotation gives decides: tools that know only that one (umoci) copy an entry
 * with containerd's annotation as it was, and the two entries would be taken for one image.
 */
function retagged(name: string, tag: string): string {
  const { tag: old, digest, ...rest } = parseReference(name);
  return old === undefined || old === tag || digest !== undefined ? name : formatReference({ ...rest, tag });
}

function fullName(text: string, digest: Digest): string | undefined {
  try {
    const reference = parseReference(text);
    // A name may not claim another content than it has.
    if (reference.digest !== undefined && reference.digest !== digest) return undefined;
    return formatReference(reference);
  } catch {
    return undefined;
  }
}

/** A manifest that an index leads to. */
interface Candidate {
  readonly claim: Descriptor;
  readonly top: Top;
  readonly held: boolean;
}

/** A full name as people write it; of a tag alone as it is. */
function shortName(key: string): string {
  return key.startsWith(':') ? key : familiarReference(parseReference(key));
}

/** The manifests below `tops` that serve the platform best: one or several, the first ones first. */
function choose(
  docs: Documents,
  tops: readonly Top[],
  asked: Platform | undefined,
  what: string,
): readonly Candidate[] {
  const candidates: Candidate[] = [];
  const seen = new Set<Digest>();
  for (const top of tops) collect(docs, top.entry, top, 0, seen, candidates);
  const held = candidates.filter((one) => one.held);
  if (held.length === 0) {
    const [first] = candidates;
    if (first !== undefined) throw missingManifest(first.claim);
    throw new StorageError('unsupported', `Cannot read ${what}: its index names no container image`);
  }
  if (asked === undefined && held.length === 1) return held;

  const want = asked ?? defaultPlatform();
  const platforms = held.map(({ claim }) => platformOf(docs, claim));
  const ranks = platforms.map((have) => (have === undefined ? undefined : platformRank(want, have)) ?? -1);
  const top = ranks.reduce((a, b) => Math.max(a, b), -1);
  const list = new Set(platforms.map((have) => (have === undefined ? 'one that is not named' : formatPlatform(have))));
  // Nothing to choose: what is for one platform only is taken as it is, like a single image.
  if (asked === undefined && list.size === 1) return held;
  if (top >= 0) return held.filter((_, i) => ranks[i] === top);
  throw new StorageError(
    'not-found',
    `Cannot take ${formatPlatform(want)} from ${what}: the archive holds ${[...list].slice(0, 20).map(shown).join(', ')}`,
    { remedy: 'choose one of these with --platform' },
  );
}

/** Every manifest below `entry`, each once however many indexes name it: so loops end and repeats cost nothing. */
function collect(
  docs: Documents,
  entry: Descriptor,
  top: Top,
  depth: number,
  seen: Set<Digest>,
  into: Candidate[],
): void {
  if (!isImage(entry) || seen.has(entry.digest)) return;
  seen.add(entry.digest);
  const held = docs.holds(entry.digest);
  // An index that is not there is a sibling like any other, unless it is all there is.
  if (mediaKind(entry.mediaType) === 'manifest' || !held) {
    into.push({ claim: entry, top, held });
    return;
  }
  const what = `index ${entry.digest}`;
  if (depth >= INDEX_DEPTH_MAX) throw corrupt(what, `it is more than ${INDEX_DEPTH_MAX} indexes deep`);
  const index = parseManifest(docs.verified(entry, what, MANIFEST_BYTES_MAX), what, entry.mediaType);
  if (index.kind !== 'index') throw corrupt(what, 'it is an image manifest');
  for (const below of index.manifests) collect(docs, below, top, depth + 1, seen, into);
}

function readManifest(docs: Documents, claim: Descriptor): Manifest {
  const what = `manifest ${claim.digest}`;
  const manifest = parseManifest(docs.verified(claim, what, MANIFEST_BYTES_MAX), what, claim.mediaType);
  if (manifest.kind !== 'manifest') throw corrupt(what, 'it is an index');
  return manifest;
}

function readConfig(docs: Documents, manifest: Manifest): ImageConfig & { readonly bytes: Buffer } {
  const { config } = manifest;
  requireKind(config.mediaType, 'config', `blob ${config.digest}`);
  const bytes = docs.verified(config, `config ${config.digest}`, CONFIG_BYTES_MAX);
  return { ...parseConfig(bytes, `config ${config.digest}`), bytes };
}

/** What the descriptor says, else what the config says. */
function platformOf(docs: Documents, claim: Descriptor): Platform | undefined {
  return claim.platform ?? readConfig(docs, readManifest(docs, claim)).platform;
}

function readImage(docs: Documents, claim: Descriptor, tag: string | undefined): ArchivedImage {
  const what = `manifest ${claim.digest}`;
  const manifest = readManifest(docs, claim);
  const config = readConfig(docs, manifest);
  if (config.diffIds.length !== manifest.layers.length) {
    throw corrupt(what, `it has ${manifest.layers.length} layers, its config has ${config.diffIds.length} diff ids`);
  }
  const layers = manifest.layers.map((layer, i): ArchivedLayer => {
    requireKind(layer.mediaType, 'layer', `blob ${layer.digest}`);
    return {
      blob: docs.blob(
        layer,
        `layer ${i + 1} of ${what}${layer.urls.length > 0 ? ' (foreign, and nothing is fetched)' : ''}`,
      ),
      diffId: config.diffIds[i]!,
      digest: layer.digest,
      mediaType: layer.mediaType,
    };
  });
  return {
    names: [],
    ...(tag === undefined ? {} : { tag }),
    ...(config.platform === undefined ? {} : { platform: config.platform }),
    manifest: {
      bytes: docs.verified(claim, what, MANIFEST_BYTES_MAX),
      digest: claim.digest,
      mediaType: claim.mediaType,
    },
    config: { bytes: config.bytes, digest: manifest.config.digest },
    layers,
  };
}

function missingManifest(claim: Descriptor): StorageError {
  return new MissingBlob(
    'corrupt',
    `Cannot read the image: the archive does not hold its manifest, ${blobName(claim.digest)}`,
  );
}
