import { type ByteString, quote } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import { Malformed, NoHeader } from './header.ts';

/** Where in an archive: the entry, as far as its name is known, and the offset of its header. */
export interface Place {
  readonly name: ByteString | undefined;
  readonly headerAt: number;
}

/** What is wrong with an archive, as `corrupt` with its place; other errors (a sink's) are answered as they are. */
export function told(error: unknown, { name, headerAt }: Place): unknown {
  if (error instanceof NoHeader && headerAt === 0) {
    return new StorageError('corrupt', 'Cannot read the archive: it is no tar archive', {
      remedy: 'unpack it first, if it is compressed',
    });
  }
  if (!(error instanceof Malformed)) return error;
  const shown = name === undefined ? 'an entry' : `entry ${quote(name.slice(0, 256) as ByteString)}`;
  return new StorageError(
    'corrupt',
    `Cannot read the archive at ${shown}, whose header is at byte ${headerAt} of the tar: ${error.message}`,
    name === undefined ? {} : { path: name.slice(0, 4096) as ByteString },
  );
}
