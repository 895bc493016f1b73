import { writeFile } from 'node:fs/promises';
import { fromText } from '../../src/base/bytes.ts';
import type { Digest } from '../../src/base/digest.ts';
import { digestOf, hexOf } from '../../src/base/digest.ts';
import type { ErrorCode } from '../../src/base/errors.ts';
import { isStorageError } from '../../src/base/errors.ts';
import type { ByteStream } from '../../src/base/values.ts';
import type { TarEntry, TarEntryType } from '../../src/tar/types.ts';
import { encodeEntry, paddingFor, trailer } from '../../src/tar/write.ts';
import { readBlob } from '../../src/transport/documents.ts';
import { openArchive } from '../../src/transport/open-archive.ts';
import type { ArchivedImage, ImagesOptions } from '../../src/transport/source.ts';
import type { ImageToSave, LayerToSave } from '../../src/transport/write-archive.ts';

/** A member of a made-up outer archive: content makes a file, a link name a symlink. */
export interface Piece {
  readonly name: string;
  readonly content?: string | Uint8Array;
  readonly type?: TarEntryType;
  readonly link?: string;
  /** The content is the runs of a file with a hole of 4096 bytes after them. */
  readonly sparse?: boolean;
}

/** A tar of `pieces` in their order. */
export function tarBytes(pieces: readonly Piece[]): Buffer {
  const parts: Uint8Array[] = [];
  for (const { name, content, type, link, sparse = false } of pieces) {
    const data = Buffer.from(content ?? '');
    const entry: TarEntry = {
      type: type ?? (link === undefined ? 'file' : 'symlink'),
      name: fromText(name),
      linkName: fromText(link ?? ''),
      mode: 0o644,
      uid: 0,
      gid: 0,
      sizeBytes: sparse ? data.length + 4096 : data.length,
      ...(sparse ? { sparse: [{ offset: 0, length: data.length }] } : {}),
      mtimeNs: 0n,
      devMajor: 0,
      devMinor: 0,
      xattrs: new Map(),
    };
    parts.push(encodeEntry(entry), data, paddingFor(data.length));
  }
  return Buffer.concat([...parts, trailer()]);
}

export const OCI = 'application/vnd.oci.image.';
export const MANIFEST_TYPE: string = `${OCI}manifest.v1+json`;
export const INDEX_TYPE: string = `${OCI}index.v1+json`;

/** A descriptor of `data` as JSON. */
export function describe(mediaType: string, data: string | Uint8Array, more: object = {}): object {
  return { mediaType, digest: digestOf(data), size: Buffer.byteLength(data), ...more };
}

export function blob(data: string | Uint8Array): Piece {
  return { name: `blobs/sha256/${hexOf(digestOf(data))}`, content: data };
}

/** An image as documents: what layouts and docker archives in tests are made of. */
export interface MadeImage {
  readonly tars: readonly Buffer[];
  readonly config: string;
  readonly manifest: string;
  /** Config, manifest and layer blobs. */
  readonly blobs: readonly Piece[];
}

export function makeImage(
  seed: string,
  { architecture = 'amd64', layers = 2 }: { architecture?: string; layers?: number } = {},
): MadeImage {
  const tars = Array.from({ length: layers }, (_, i) => tarBytes([{ name: `f${i}`, content: `${seed} ${i}` }]));
  const config = JSON.stringify({
    author: seed,
    os: 'linux',
    architecture,
    rootfs: { type: 'layers', diff_ids: tars.map((t) => digestOf(t)) },
  });
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    config: describe(`${OCI}config.v1+json`, config),
    layers: tars.map((tar) => describe(`${OCI}layer.v1.tar`, tar)),
  });
  return { tars, config, manifest, blobs: [config, manifest, ...tars].map(blob) };
}

/** An index of descriptors. */
export function indexOf(...manifests: readonly object[]): string {
  return JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests });
}

/** The members of a layout of one image. */
export function layoutOf(image: MadeImage, name = 'docker.io/library/x:1'): readonly Piece[] {
  return [
    { name: 'oci-layout', content: '{"imageLayoutVersion":"1.0.0"}' },
    {
      name: 'index.json',
      content: indexOf(describe(MANIFEST_TYPE, image.manifest, { annotations: { 'io.containerd.image.name': name } })),
    },
    ...image.blobs,
  ];
}

export async function imagesOf(path: string, options?: ImagesOptions): Promise<readonly ArchivedImage[]> {
  await using archive = await openArchive(path);
  return archive.images(options);
}

/** Writes the archive and reads its images. */
export async function imagesIn(
  dir: string,
  pieces: readonly Piece[] | Uint8Array,
  options?: ImagesOptions,
): Promise<readonly ArchivedImage[]> {
  const path = `${dir}/archive.tar`;
  await writeFile(path, pieces instanceof Uint8Array ? pieces : tarBytes(pieces));
  return imagesOf(path, options);
}

/** What an archive gives, with the layers' bytes, to compare. */
export async function contentOf(
  path: string,
  options?: ImagesOptions,
): Promise<readonly { names: readonly string[]; config: string; layers: readonly Digest[] }[]> {
  await using archive = await openArchive(path);
  return archive.images(options).map((image) => ({
    names: image.names,
    config: image.config.bytes.toString(),
    layers: image.layers.map((layer) => digestOf(readBlob(layer.blob, 'layer'))),
  }));
}

export async function collect(stream: ByteStream): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of stream) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}

/** An image to save, and how its layers are opened. */
export function toSave(
  image: MadeImage,
  names: readonly string[],
): { image: ImageToSave; open: (layer: LayerToSave) => ByteStream } {
  const layers = image.tars.map((tar) => ({ diffId: digestOf(tar), sizeBytes: tar.length }));
  return { image: { names, config: Buffer.from(image.config), layers }, open: opener(image) };
}

export function opener(...images: readonly MadeImage[]): (layer: LayerToSave) => ByteStream {
  return async function* (layer) {
    const tar = images.flatMap((image) => image.tars).find((one) => digestOf(one) === layer.diffId)!;
    for (let at = 0; at < tar.length; at += 700) yield tar.subarray(at, at + 700);
  };
}

/** For `assert.rejects`: that code, one line, matching `text`. */
export function fails(code: ErrorCode, text: RegExp = /./): (error: unknown) => boolean {
  return (error) => {
    if (isStorageError(error) && error.code === code && text.test(error.message) && !error.message.includes('\n'))
      return true;
    throw error;
  };
}
