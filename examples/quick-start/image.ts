import { createHash } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { defaultPlatform, encodeManifest, OCI_INDEX, OCI_LAYER_TAR } from '../../src/oci-entry.ts';
import { addWithWay, treeOfPrograms } from './host-tree.ts';
import { LayerTar } from './layer-tar.ts';

export interface MadeLayer {
  readonly about: string;
  readonly compression: 'gzip' | 'zstd' | 'none';
  /** Digest of the uncompressed tar. */
  readonly diffId: string;
  readonly tarBytes: number;
  readonly blobBytes: number;
}

const APP = 'srv/app';
const MODULES = join(dirname(fileURLToPath(import.meta.url)), '../../node_modules');
const PACKAGES = ['typescript', 'fast-check'];

/**
 * Writes a real image into `file`, an OCI archive: a small root filesystem out of this machine's programs, an
 * application out of node_modules, and a layer of configuration that also deletes. Answers its layers, bottom first.
 */
export function makeImage(file: string, reference: string): readonly MadeLayer[] {
  const layers = [
    blobOf('a shell, coreutils and their libraries', 'gzip', rootFilesystem()),
    blobOf(`an application with ${PACKAGES.join(' and ')}`, 'zstd', application()),
    blobOf('its configuration; deletes a file, hides a directory, makes links', 'none', configuration()),
  ];
  const { os, architecture } = defaultPlatform();
  const config = Buffer.from(
    JSON.stringify({
      created: '2026-01-01T00:00:00Z',
      architecture,
      os,
      config: { Env: ['PATH=/usr/sbin:/usr/bin:/sbin:/bin'], WorkingDir: `/${APP}`, Cmd: ['./start'] },
      rootfs: { type: 'layers', diff_ids: layers.map(({ made }) => made.diffId) },
      history: layers.map(({ made }) => ({ created: '2026-01-01T00:00:00Z', created_by: made.about })),
    }),
  );
  const manifest = encodeManifest(
    config,
    layers.map(({ blob, mediaType }) => ({ mediaType, digest: digestOf(blob), sizeBytes: blob.length })),
  );
  const entry = {
    mediaType: manifest.mediaType,
    digest: manifest.digest,
    size: manifest.bytes.length,
    platform: { os, architecture },
    annotations: { 'org.opencontainers.image.ref.name': reference.replace(/^.*:/, ''), [NAME]: reference },
  };
  const archive = new LayerTar()
    .file('oci-layout', '{"imageLayoutVersion":"1.0.0"}')
    .file('index.json', JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests: [entry] }))
    .directory('blobs')
    .directory('blobs/sha256');
  for (const blob of [manifest.bytes, config, ...layers.map((layer) => layer.blob)]) {
    archive.file(digestOf(blob).replace('sha256:', 'blobs/sha256/'), blob);
  }
  writeFileSync(file, archive.bytes());
  return layers.map(({ made }) => made);
}

/** containerd's and Docker's annotation for a full name. */
const NAME = 'io.containerd.image.name';

function rootFilesystem(): LayerTar {
  const wanted = ['sh', 'cat', 'ls', 'rm', 'mkdir', 'chmod', 'ln'];
  const tree = new Set(treeOfPrograms(wanted, ['cp', 'mv', 'head', 'wc', 'sort', 'env', 'id', 'uname', 'touch']));
  // PATH may lead past the name that scripts begin with.
  for (const path of ['/bin/sh', '/etc/os-release']) if (existsSync(path)) addWithWay(tree, path);
  const layer = new LayerTar().copy([...tree]);
  if (!tree.has('/etc')) layer.directory('etc');
  return layer
    .directory('root', 0o700)
    .directory('tmp', 0o1777)
    .file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n')
    .file('etc/group', 'root:x:0:\n');
}

function application(): LayerTar {
  const layer = new LayerTar().directory('srv').directory(APP).directory(`${APP}/node_modules`);
  for (const name of PACKAGES) {
    const from = join(MODULES, name);
    if (!existsSync(from)) throw new Error(`Cannot make the image: ${from} is missing; run "npm ci" first`);
    layer.copyTree(from, `${APP}/node_modules/${name}`);
  }
  return layer
    .file(`${APP}/start`, '#!/bin/sh\ncat settings/*\n', 0o755)
    .directory(`${APP}/settings`)
    .file(`${APP}/settings/10-default`, 'colour = grey\n')
    .file(`${APP}/settings/20-example`, 'colour = none\n');
}

function configuration(): LayerTar {
  return new LayerTar()
    .directory('srv')
    .directory(APP)
    .directory(`${APP}/settings`)
    .opaque(`${APP}/settings`)
    .file(`${APP}/settings/10-ours`, 'colour = green\n')
    .hardLink(`${APP}/settings/same-file`, `${APP}/settings/10-ours`)
    .whiteout(`${APP}/node_modules/typescript`, 'README.md')
    .symlink(`${APP}/current`, 'node_modules/typescript');
}

function blobOf(about: string, compression: MadeLayer['compression'], layer: LayerTar): Blob {
  const tar = layer.bytes();
  const blob =
    compression === 'gzip' ? gzipSync(tar, { level: 1 }) : compression === 'zstd' ? zstdCompressSync(tar) : tar;
  const mediaType = compression === 'none' ? OCI_LAYER_TAR : `${OCI_LAYER_TAR}+${compression}`;
  const sizes = { tarBytes: tar.length, blobBytes: blob.length };
  return { blob, mediaType, made: { about, compression, diffId: digestOf(tar), ...sizes } };
}

interface Blob {
  readonly blob: Buffer;
  readonly mediaType: string;
  readonly made: MadeLayer;
}

function digestOf(bytes: Uint8Array): `sha256:${string}` {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}
