import { createCipheriv } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { type Digest, digestOf, hexOf } from '../../src/base/digest.ts';
import { blob, describe, indexOf, MANIFEST_TYPE, OCI, type Piece, tarBytes } from '../transport/archives.ts';
import { directory, file, layer } from './layer-builder.ts';

// Archives of whole images, in the forms that tools write. All are equal bytes on every run.

export interface ImageSpec {
  /** Tars, bottom first. */
  readonly layers: readonly Buffer[];
  /** Full names. */
  readonly names?: readonly string[];
  /** Makes configs differ. */
  readonly author?: string;
  readonly architecture?: string;
  readonly compress?: 'gzip' | 'zstd';
  readonly history?: readonly object[];
}

export const HERE: string = process.arch === 'x64' ? 'amd64' : process.arch;

export function configOf(spec: ImageSpec): string {
  return JSON.stringify({
    ...(spec.author === undefined ? {} : { author: spec.author }),
    created: '2024-01-02T03:04:05Z',
    os: 'linux',
    architecture: spec.architecture ?? HERE,
    config: { Env: ['PATH=/bin'], Cmd: ['/bin/sh'] },
    rootfs: { type: 'layers', diff_ids: spec.layers.map((tar) => digestOf(tar)) },
    ...(spec.history === undefined ? {} : { history: spec.history }),
  });
}

/** What the store calls the image. */
export function idOf(spec: ImageSpec): Digest {
  return digestOf(configOf(spec));
}

const TYPES = { none: 'layer.v1.tar', gzip: 'layer.v1.tar+gzip', zstd: 'layer.v1.tar+zstd' } as const;

function packed(tar: Buffer, compress: ImageSpec['compress']): Buffer {
  if (compress === undefined) return tar;
  return compress === 'gzip' ? gzipSync(tar) : zstdCompressSync(tar);
}

/** The members of an OCI layout; an image has an entry of the index for each of its names. */
export function layoutPieces(...specs: readonly ImageSpec[]): Piece[] {
  const blobs = new Map<string, Piece>();
  const entries = specs.flatMap((spec) => {
    const config = configOf(spec);
    const layers = spec.layers.map((tar) => packed(tar, spec.compress));
    const manifest = JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST_TYPE,
      config: describe(`${OCI}config.v1+json`, config),
      layers: layers.map((one) => describe(`${OCI}${TYPES[spec.compress ?? 'none']}`, one)),
    });
    for (const one of [config, manifest, ...layers]) blobs.set(digestOf(one), blob(one));
    const platform = { os: 'linux', architecture: spec.architecture ?? HERE };
    const names = spec.names ?? [];
    if (names.length === 0) return [describe(MANIFEST_TYPE, manifest, { platform })];
    return names.map((name) =>
      describe(MANIFEST_TYPE, manifest, { platform, annotations: { 'io.containerd.image.name': name } }),
    );
  });
  return [
    { name: 'oci-layout', content: '{"imageLayoutVersion":"1.0.0"}' },
    { name: 'index.json', content: indexOf(...entries) },
    ...blobs.values(),
  ];
}

export function ociTar(...specs: readonly ImageSpec[]): Buffer {
  return tarBytes(layoutPieces(...specs));
}

/** As Docker before 25 writes it, with flat names. */
export function dockerTar(...specs: readonly ImageSpec[]): Buffer {
  const members = new Map<string, Piece>();
  const manifest = specs.map((spec) => {
    const config = configOf(spec);
    const put = (name: string, content: string | Buffer): string => {
      members.set(name, { name, content });
      return name;
    };
    return {
      Config: put(`${hexOf(digestOf(config))}.json`, config),
      RepoTags: spec.names ?? [],
      Layers: spec.layers.map((tar) => put(`${hexOf(digestOf(tar))}.tar`, packed(tar, spec.compress))),
    };
  });
  return tarBytes([{ name: 'manifest.json', content: JSON.stringify(manifest) }, ...members.values()]);
}

/** An OCI layout as a directory. */
export function writeLayout(path: string, ...specs: readonly ImageSpec[]): string {
  for (const { name, content } of layoutPieces(...specs)) {
    mkdirSync(dirname(join(path, name)), { recursive: true });
    writeFileSync(join(path, name), content ?? '');
  }
  return path;
}

/** Bytes that no codec makes smaller, of the seed alone. */
export function noise(bytes: number, seed: number): Buffer {
  const key = Buffer.alloc(16);
  key.writeUInt32LE(seed);
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(bytes));
}

/** A layer of `files` files of `bytes` each, in directories of 50. */
export function bulk(seed: number, files: number, bytes: number): Buffer {
  const pieces: Uint8Array[] = [];
  for (let i = 0; i < files; i++) {
    if (i % 50 === 0) pieces.push(directory(`s${seed}-${i / 50}/`));
    pieces.push(file(`s${seed}-${Math.floor(i / 50)}/f${i}`, noise(bytes, seed * 1000 + i)));
  }
  return layer(...pieces);
}
