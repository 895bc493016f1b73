import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { StorageError } from '../base/errors.ts';
import type { Compression } from '../codec/sniff.ts';
import { SNIFF_BYTES, sniff } from '../codec/sniff.ts';
import { corrupt, shown } from '../oci/json.ts';
import { familiarReference, parseReference } from '../oci/reference.ts';
import { DirectoryMembers } from './directory.ts';
import { claimedDigest, dockerEntries, dockerImages } from './docker-archive.ts';
import { Documents, MissingBlob } from './documents.ts';
import { layoutImages } from './layout.ts';
import { memberName, TarMembers } from './member-index.ts';
import type { ArchivedImage, ImageArchive, ImagesOptions } from './source.ts';

/** The compression around a whole archive, by content; kinds that we cannot unpack are `unsupported`, by name. */
export function outerCompression(fd: number): Compression {
  const head = Buffer.alloc(SNIFF_BYTES);
  return sniff(head.subarray(0, readSync(fd, head, 0, head.length, 0)));
}

/**
 * Opens a layout directory, or an uncompressed tar in an ordinary file, recognised by content. A descriptor stays the
 * caller's, and must stay open as long as the archive. What is neither is refused: a pipe or a compressed file must be
 * spooled first (`invalid-argument`), an archive of another kind is `unsupported`, a broken one `corrupt`.
 */
export async function openArchive(from: string | number): Promise<ImageArchive> {
  // O_NONBLOCK: a fifo is refused below, not waited for.
  const fd = typeof from === 'number' ? from : openPath(from);
  const close = (): void => {
    if (typeof from !== 'number') closeSync(fd);
  };
  try {
    const stat = fstatSync(fd);
    if (stat.isDirectory()) return openDirectory(fd, typeof from === 'string' ? from : `/proc/self/fd/${fd}`, close);
    if (!stat.isFile()) throw invalid('it is neither a directory nor an ordinary file, copy it to one first');
    if (stat.size === 0) throw corrupt('the archive', 'it is empty');
    const packed = outerCompression(fd);
    if (packed !== 'none') throw invalid(`it is compressed with ${packed}, unpack it first`);
    return openTar(fd, close);
  } catch (error) {
    close();
    throw error;
  }
}

function openPath(path: string): number {
  try {
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    const known =
      code === 'ENOENT' || code === 'ENOTDIR' ? 'not-found' : code === 'EACCES' ? 'permission-denied' : undefined;
    if (known === undefined) throw cause;
    throw new StorageError(
      known,
      `Cannot open ${shown(path)}: ${known === 'not-found' ? 'there is no such file' : 'no right to read it'}`,
      {
        path,
        cause,
      },
    );
  }
}

function openDirectory(fd: number, path: string, close: () => void): ImageArchive {
  const members = new DirectoryMembers(fd, path);
  const docs = new Documents(members);
  return {
    images: (options) => {
      if (members.find('index.json') !== undefined || members.find('oci-layout') !== undefined)
        return lastTakesName(layoutImages(docs, options));
      throw new StorageError(
        'unsupported',
        `Cannot read ${shown(path)}: the directory is no OCI image layout, it has no index.json`,
      );
    },
    [Symbol.asyncDispose]: async () => {
      members[Symbol.dispose]();
      close();
    },
  };
}

function openTar(fd: number, close: () => void): ImageArchive {
  const members = TarMembers.scan(fd);
  const docs = new Documents(members);
  return {
    images: (options) => lastTakesName(tarImages(docs, members, options)),
    [Symbol.asyncDispose]: async () => close(),
  };
}

/** A layout where it is one and whole, else by manifest.json. */
function tarImages(docs: Documents, members: TarMembers, options: ImagesOptions | undefined): readonly ArchivedImage[] {
  const isDocker = members.find('manifest.json') !== undefined;
  const isLayout = members.find('index.json') !== undefined || (!isDocker && members.find('oci-layout') !== undefined);
  if (isLayout) {
    try {
      return layoutImages(docs, options).map((image) => withNames(image, docs));
    } catch (error) {
      if (!isDocker || !(error instanceof MissingBlob)) throw error;
      try {
        return dockerImages(docs, members, options);
      } catch (second) {
        // Neither half is whole: the first says what is missing.
        throw second instanceof MissingBlob ? error : second;
      }
    }
  }
  if (isDocker) return dockerImages(docs, members, options);
  // Without its end marker it was cut, and what is missing may well be what we look for.
  if (!members.ended) throw corrupt('the archive', 'it is cut off, and has neither manifest.json nor index.json');
  const because =
    members.find('repositories') === undefined
      ? 'so it is no image archive that Docker 1.10 or newer wrote'
      : 'as Docker before 1.10 wrote it; load and save it with a newer one';
  throw new StorageError(
    'unsupported',
    `Cannot read the archive: it has no manifest.json and no index.json, ${because}`,
  );
}

/** As whoever imports them one after another: of several images with one name the last keeps it, and that is said. */
function lastTakesName(images: readonly ArchivedImage[]): readonly ArchivedImage[] {
  const owners = new Map(images.flatMap((image) => image.names.map((name) => [name, image.config.digest])));
  return images.map((image) => {
    const { own = [], lost = [] } = Object.groupBy(image.names, (name) =>
      owners.get(name) === image.config.digest ? 'own' : 'lost',
    );
    if (lost.length === 0) return image;
    const notes = lost.map((name) => {
      const short = familiarReference(parseReference(name));
      return `${image.config.digest} is without the name ${shown(short)}: a later image of the archive has it too, and takes it`;
    });
    return { ...image, names: own, notes: [...(image.notes ?? []), ...notes] };
  });
}

/** Names from manifest.json for an image that the layout half leaves without. */
function withNames(image: ArchivedImage, docs: Documents): ArchivedImage {
  if (image.names.length > 0) return image;
  const same = dockerEntries(docs).filter(({ config }) => claimedDigest(memberName(config)) === image.config.digest);
  return { ...image, names: [...new Set(same.flatMap(({ names }) => names))] };
}

function invalid(state: string): StorageError {
  return new StorageError('invalid-argument', `Cannot open the archive: ${state}`);
}
