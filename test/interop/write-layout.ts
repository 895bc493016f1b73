import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

export interface WrittenImage {
  readonly configDigest: string;
  readonly manifestDigest: string;
  /** Bottom first. */
  readonly diffIds: readonly string[];
  readonly layerDigests: readonly string[];
}

/**
 * An image of `tars` (bottom first, gzipped here) as an OCI layout in the new `directory`, with nothing of layerstore in
 * the making; a manifest.json beside it makes its tar a docker archive too. `reference` is short: `name:tag`.
 */
export function writeLayout(directory: string, reference: string, tars: readonly string[]): WrittenImage {
  const blobs = join(directory, 'blobs/sha256');
  mkdirSync(blobs, { recursive: true });
  const put = (bytes: Uint8Array, mediaType: string): { mediaType: string; digest: string; size: number } => {
    const hex = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(join(blobs, hex), bytes);
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
  };
  const oci = 'application/vnd.oci.image';
  const contents = tars.map((tar) => readFileSync(tar));
  const layers = contents.map((tar) => put(gzipSync(tar), `${oci}.layer.v1.tar+gzip`));
  const diffIds = contents.map((tar) => `sha256:${createHash('sha256').update(tar).digest('hex')}`);
  const [architecture, created] = [process.arch === 'arm64' ? 'arm64' : 'amd64', '2024-01-02T03:04:05Z'];
  const config = {
    created,
    architecture,
    os: 'linux',
    config: { Env: ['PATH=/usr/bin:/bin'], Cmd: ['/bin/sh'] },
    rootfs: { type: 'layers', diff_ids: diffIds },
    history: tars.map((_, i) => ({ created, created_by: `layer ${i}` })),
  };
  const configBlob = put(Buffer.from(JSON.stringify(config)), `${oci}.config.v1+json`);
  const manifest = { schemaVersion: 2, mediaType: `${oci}.manifest.v1+json`, config: configBlob, layers };
  const [name, tag] = reference.split(':') as [string, string];
  const entry = {
    ...put(Buffer.from(JSON.stringify(manifest)), manifest.mediaType),
    platform: { architecture, os: 'linux' },
    annotations: {
      'io.containerd.image.name': `docker.io/library/${name}:${tag}`,
      'org.opencontainers.image.ref.name': tag,
    },
  };
  const index = { schemaVersion: 2, mediaType: `${oci}.index.v1+json`, manifests: [entry] };
  writeFileSync(join(directory, 'index.json'), JSON.stringify(index));
  writeFileSync(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const path = (digest: string): string => `blobs/sha256/${digest.slice('sha256:'.length)}`;
  const docker = {
    Config: path(configBlob.digest),
    RepoTags: [reference],
    Layers: layers.map((layer) => path(layer.digest)),
  };
  writeFileSync(join(directory, 'manifest.json'), JSON.stringify([docker]));
  return {
    configDigest: configBlob.digest,
    manifestDigest: entry.digest,
    diffIds,
    layerDigests: layers.map((layer) => layer.digest),
  };
}
