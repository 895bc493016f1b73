import { type ByteString, fromText } from '../../src/base/bytes.ts';
import { digestOf } from '../../src/base/digest.ts';
import type { Extent, TarEntry, TarEntryType } from '../../src/tar/types.ts';
import { encodeEntry, paddingFor, trailer } from '../../src/tar/write.ts';
import { blob, describe, indexOf, MANIFEST_TYPE, OCI, tarBytes } from '../transport/archives.ts';

// Layers and images from a few words. What no honest tool would write is put between the pieces as raw bytes
// (../tar/craft.ts).

/** What a piece has beside its name; ids, time and devices are 0 where nothing is said. */
export interface Looks {
  readonly mode?: number;
  readonly uid?: number;
  readonly gid?: number;
  readonly mtimeNs?: bigint;
  readonly major?: number;
  readonly minor?: number;
  readonly xattrs?: Readonly<Record<string, string | Buffer>>;
  /** Runs of a sparse file of `sizeBytes`; its content is these runs. */
  readonly sparse?: readonly Extent[];
  readonly sizeBytes?: number;
}

/** Bytes of an archive: an entry with its payload, or whatever. */
export type Piece = Uint8Array;

/** One entry; `link` is the target of a link. Names are text; bytes go in as `ByteString`. */
export function piece(
  type: Exclude<TarEntryType, 'skipped'>,
  name: string | ByteString,
  {
    content = '',
    link = '',
    ...looks
  }: Looks & { readonly content?: string | Uint8Array; readonly link?: string } = {},
): Piece {
  const data = Buffer.from(content as Uint8Array);
  const entry: TarEntry = {
    type,
    name: fromText(name),
    linkName: fromText(link),
    mode: looks.mode ?? (type === 'directory' ? 0o755 : type === 'symlink' ? 0o777 : 0o644),
    uid: looks.uid ?? 0,
    gid: looks.gid ?? 0,
    sizeBytes: looks.sizeBytes ?? (type === 'file' ? data.length : 0),
    mtimeNs: looks.mtimeNs ?? 0n,
    devMajor: looks.major ?? 0,
    devMinor: looks.minor ?? 0,
    xattrs: new Map(Object.entries(looks.xattrs ?? {}).map(([key, value]) => [fromText(key), Buffer.from(value)])),
    ...(looks.sparse === undefined ? {} : { sparse: looks.sparse }),
  };
  return Buffer.concat([encodeEntry(entry), data, paddingFor(data.length)]);
}

export function directory(name: string, looks: Looks = {}): Piece {
  return piece('directory', name, looks);
}

export function file(name: string, content: string | Uint8Array = '', looks: Looks = {}): Piece {
  return piece('file', name, { ...looks, content });
}

export function symlink(name: string, link: string, looks: Looks = {}): Piece {
  return piece('symlink', name, { ...looks, link });
}

export function hardlink(name: string, link: string, looks: Looks = {}): Piece {
  return piece('hardlink', name, { ...looks, link });
}

export function fifo(name: string, looks: Looks = {}): Piece {
  return piece('fifo', name, looks);
}

export function device(name: string, major: number, minor: number, looks: Looks = {}): Piece {
  return piece('character-device', name, { ...looks, major, minor });
}

/** Deletes `name`. */
export function whiteout(name: string): Piece {
  const slash = name.lastIndexOf('/') + 1;
  return file(`${name.slice(0, slash)}.wh.${name.slice(slash)}`);
}

/** Hides what lies below the directory `name`; the empty name is the root. */
export function opaque(name = ''): Piece {
  return file(name === '' ? '.wh..wh..opq' : `${name}/.wh..wh..opq`);
}

/** A layer of these pieces, with the two blocks at its end. */
export function layer(...pieces: readonly Piece[]): Buffer {
  return Buffer.concat([...pieces, trailer()]);
}

/** A layer as it lies in an archive: its blob may be compressed and its media type a lie. */
export interface Packed {
  readonly tar: Uint8Array;
  readonly blob: Uint8Array;
  readonly mediaType?: string;
}

/** An OCI layout, as a tar, of one image of these layers (bottom first), named `docker.io/library/NAME:1`. */
export function ociImage(layers: readonly (Buffer | Packed)[], name = 'test'): Buffer {
  const packed: readonly Packed[] = layers.map((one) => (Buffer.isBuffer(one) ? { tar: one, blob: one } : one));
  const config = JSON.stringify({
    author: name,
    os: 'linux',
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    rootfs: { type: 'layers', diff_ids: packed.map(({ tar }) => digestOf(tar)) },
  });
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    config: describe(`${OCI}config.v1+json`, config),
    layers: packed.map((one) => describe(one.mediaType ?? `${OCI}layer.v1.tar`, one.blob)),
  });
  const annotations = { 'io.containerd.image.name': `docker.io/library/${name}:1` };
  return tarBytes([
    { name: 'oci-layout', content: '{"imageLayoutVersion":"1.0.0"}' },
    { name: 'index.json', content: indexOf(describe(MANIFEST_TYPE, manifest, { annotations })) },
    ...[config, manifest, ...new Set(packed.map((one) => one.blob))].map(blob),
  ]);
}
