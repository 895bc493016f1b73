import type { ByteString } from '../base/bytes.ts';
import { NO_PIECES, type Pieces } from '../fs/read-ahead.ts';
import { allocatedBytes, sameInode } from '../fs/stat.ts';
import { fstat, lseek, SEEK_DATA, SEEK_HOLE, type Stat } from '../linux/inode.ts';
import { EINVAL, ENXIO, located } from '../linux/libc.ts';
import { paddingOf } from '../tar/header.ts';
import type { Output } from './output.ts';
import { changed, ofReading } from './reading.ts';

/** Files up to this are read at once, and as they are. */
const PIECE_BYTES = 1024 * 1024;
const SEEK_SET = 0;

/** What files hold, on its way into an archive: as much as their headers said, or an error. */
export class Contents {
  readonly #root: ByteString;
  readonly #output: Output;

  /** `root`: what paths are in, for errors. */
  constructor(root: ByteString, output: Output) {
    this.#root = root;
    this.#output = output;
  }

  /** An error of it names it. A large one takes several pieces. */
  read(fd: number, archived: ByteString, stat: Stat): Pieces {
    if (stat.sizeBytes > PIECE_BYTES) return this.#large(fd, archived, stat);
    try {
      if (!this.#output.copy(fd, stat.sizeBytes, archived)) throw changed(archived, 'it shrank');
      this.#ended(fd, archived, stat);
      return NO_PIECES;
    } catch (error) {
      throw this.#located(error, archived);
    }
  }

  *#large(fd: number, archived: ByteString, stat: Stat): Generator<void, void, undefined> {
    try {
      yield* this.#dataOf(fd, stat, archived);
      this.#ended(fd, archived, stat);
    } catch (error) {
      throw this.#located(error, archived);
    }
  }

  #located(error: unknown, archived: ByteString): unknown {
    const path = `/${archived}` as ByteString;
    return ofReading(located(error, path), path, this.#root);
  }

  /** It is still what its header says. */
  #ended(fd: number, archived: ByteString, stat: Stat): void {
    const after = fstat(fd);
    if (!sameInode(stat, after)) throw changed(archived, 'another file took its place');
    if (after.sizeBytes !== stat.sizeBytes) {
      throw changed(archived, `it went from ${stat.sizeBytes} to ${after.sizeBytes} bytes`);
    }
    if (after.mtimeNs !== stat.mtimeNs) throw changed(archived, 'it was written to');
    this.#output.zeros(paddingOf(stat.sizeBytes));
  }

  /** Holes are not read: their zeros would only fill the page cache. */
  *#dataOf(fd: number, stat: Stat, archived: ByteString): Generator<void, void, undefined> {
    const { sizeBytes } = stat;
    if (allocatedBytes(stat) >= sizeBytes) {
      yield* this.#copy(fd, sizeBytes, archived);
      return;
    }
    for (let at = 0; at < sizeBytes; ) {
      const found = lseek(fd, at, SEEK_DATA, ENXIO, EINVAL);
      if (found === -EINVAL) {
        yield* this.#copy(fd, sizeBytes - at, archived); // not of this filesystem
        return;
      }
      const data = found < 0 ? sizeBytes : Math.min(found, sizeBytes);
      for (const bytes of inPieces(data - at)) {
        this.#output.zeros(bytes);
        yield;
      }
      if (data === sizeBytes) break;
      const hole = lseek(fd, data, SEEK_HOLE, ENXIO);
      if (hole < 0) throw changed(archived, 'it shrank'); // cut off meanwhile
      at = Math.min(hole, sizeBytes);
      lseek(fd, data, SEEK_SET);
      yield* this.#copy(fd, at - data, archived);
    }
  }

  *#copy(fd: number, sizeBytes: number, archived: ByteString): Generator<void, void, undefined> {
    for (const bytes of inPieces(sizeBytes)) {
      if (!this.#output.copy(fd, bytes, archived)) throw changed(archived, 'it shrank');
      yield;
    }
  }
}

function* inPieces(sizeBytes: number): Generator<number, void, undefined> {
  for (let left = sizeBytes; left > 0; left -= PIECE_BYTES) yield Math.min(left, PIECE_BYTES);
}
