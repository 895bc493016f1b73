import { createHash, randomFillSync } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readSync, rmSync, statSync, truncateSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { directory, file, hardlink, layer, symlink } from '../test/kit/layer-builder.ts';
import { command } from './command.ts';

// Images that do not fit into memory, each of one layer, made piece by piece.

/** The bytes of a tar, each time anew; a piece is valid until the next is taken. */
export type Pieces = () => Iterable<Uint8Array>;

/** Repeated, this is data that no compression and no search for zeros makes smaller. */
const BLOCK: Uint8Array = randomFillSync(new Uint8Array(4 * 1024 * 1024));
const FILE_BYTES_MAX = 256e6;
const CHUNK_BYTES = 1024 * 1024;
const TAR_BLOCK = 512;

/** A layer of files of 256 MB, the last one smaller, of `bytes` together. */
export function ofBytes(bytes: number): Pieces {
  return function* () {
    yield directory('files');
    for (let i = 0, left = bytes; left > 0; i++) {
      const size = Math.min(left, FILE_BYTES_MAX);
      yield file(`files/file${i}`, '', { sizeBytes: size });
      for (let at = 0; at < size; at += BLOCK.length) yield BLOCK.subarray(0, Math.min(BLOCK.length, size - at));
      yield Buffer.alloc((TAR_BLOCK - (size % TAR_BLOCK)) % TAR_BLOCK);
      left -= size;
    }
    yield layer();
  };
}

const ENTRIES_IN_DIRECTORY = 1000;
/** In each so many entries there are a directory, a symlink and a hard link; all others are files. */
const MIXED_EVERY = 50;

/** The name of a regular file of `ofEntries`: in each directory there is one. */
export function entryIn(group: number): string {
  return `d${group}/f10`;
}

/** A layer of `count` entries. */
export function ofEntries(count: number): Pieces {
  const content = Buffer.alloc(200, 'content\n');
  return function* () {
    for (let i = 0; i < count; i++) {
      const [group, at] = [Math.floor(i / ENTRIES_IN_DIRECTORY), i % ENTRIES_IN_DIRECTORY];
      const name = `d${group}/f${at}`;
      const kind = at % MIXED_EVERY;
      if (at === 0) yield directory(`d${group}`);
      else if (kind === 1) yield directory(name);
      else if (kind === 2) yield symlink(name, `f${at + 1}`);
      else if (kind === 5) yield hardlink(name, `d${group}/f${at - 1}`);
      else yield file(name, content);
    }
    yield layer();
  };
}

/** Where a file with holes has data, in parts of its size. */
const PIECES_AT = [0, 0.25, 0.5, 0.999];

/** The file of `ofHole` and `makeHole`. */
export const HOLED = 'holed';

/** A file of that size in `directory`: four pieces of data, else holes. */
export function makeHole(directory: string, size: number): void {
  const path = join(directory, HOLED);
  const fd = openSync(path, 'w');
  for (const at of PIECES_AT) writeSync(fd, BLOCK, 0, BLOCK.length, pieceAt(at, size));
  closeSync(fd);
  truncateSync(path, size);
}

/** What is wrong with such a file: its size, a piece, its holes. Answers the bytes that it takes. */
export function checkHole(directory: string, size: number): number {
  const path = join(directory, HOLED);
  const found = statSync(path);
  if (found.size !== size) throw new Error(`The file is ${found.size} bytes long, not ${size}`);
  const fd = openSync(path, 'r');
  const read = new Uint8Array(BLOCK.length);
  for (const at of PIECES_AT) {
    readSync(fd, read, 0, read.length, pieceAt(at, size));
    if (Buffer.compare(read, BLOCK) !== 0) throw new Error(`The data at ${pieceAt(at, size)} are not what was written`);
  }
  readSync(fd, read, 0, read.length, pieceAt(0.7, size));
  if (read.some((byte) => byte !== 0)) throw new Error('A hole has data');
  closeSync(fd);
  return found.blocks * TAR_BLOCK;
}

function pieceAt(part: number, size: number): number {
  return Math.floor((size * part) / BLOCK.length) * BLOCK.length;
}

/** A layer with one file of that size, mostly holes, as GNU tar writes it: `scratch` needs only its data. */
export async function ofHole(size: number, scratch: string): Promise<Pieces> {
  const [tree, tar] = [join(scratch, 'hole'), join(scratch, 'hole.tar')];
  mkdirSync(tree);
  makeHole(tree, size);
  const how = ['--format=posix', '--sparse', '--sparse-version=1.0', '--owner=0', '--group=0', '--numeric-owner'];
  await command('tar', [...how, '-C', tree, '-cf', tar, HOLED]);
  rmSync(tree, { recursive: true });
  return function* () {
    const fd = openSync(tar, 'r');
    const buffer = new Uint8Array(CHUNK_BYTES);
    for (let got = readSync(fd, buffer); got > 0; got = readSync(fd, buffer)) yield buffer.subarray(0, got);
    closeSync(fd);
  };
}

/** Writes a docker archive of an image with that layer, as a plain tar: `reference` is short, `name:tag`. */
export function writeArchive(path: string, reference: string, pieces: Pieces): void {
  let size = 0;
  for (const piece of pieces()) size += piece.length;
  const hash = createHash('sha256');
  const fd = openSync(path, 'w');
  const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  let filled = 0;
  const flush = (): void => {
    for (let at = 0; at < filled; ) at += writeSync(fd, chunk, at, filled - at);
    filled = 0;
  };
  const put = (bytes: Uint8Array): void => {
    for (let at = 0; at < bytes.length; ) {
      const part = bytes.subarray(at, at + chunk.length - filled);
      chunk.set(part, filled);
      at += part.length;
      filled += part.length;
      if (filled === chunk.length) flush();
    }
  };
  try {
    put(file('layer.tar', '', { sizeBytes: size }));
    for (const piece of pieces()) {
      hash.update(piece);
      put(piece);
    }
    // The digest is known only now; a manifest may stand anywhere in the archive.
    const config = JSON.stringify({
      os: 'linux',
      architecture: process.arch === 'x64' ? 'amd64' : process.arch,
      rootfs: { type: 'layers', diff_ids: [`sha256:${hash.digest('hex')}`] },
    });
    const manifest = JSON.stringify([{ Config: 'config.json', RepoTags: [reference], Layers: ['layer.tar'] }]);
    put(layer(file('config.json', config), file('manifest.json', manifest)));
    flush();
  } finally {
    closeSync(fd);
  }
}
