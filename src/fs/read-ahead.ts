import { isCached, readAhead } from '../linux/copy.ts';

/** Files that are open and asked for at a time. On a disk here 8 halve the time of a cold tree, 128 give no more. */
const FILES_MAX = 16;
/** What waits between them. */
const BYTES_MAX = 256 * 1024;
/** Of each file; beyond it the kernel's own reading ahead has begun. */
const AHEAD_BYTES = 1 << 20;

/** After so many files it is looked at whether anything was read from a disk. */
const LOOK_FILES = 256;

/** A file to read when its turn comes. */
export interface AskedFile extends Disposable {
  readonly fd: number;
  readonly sizeBytes: number;
}

/** Work that is done as it is iterated. */
export type Pieces = Iterable<void>;

/** All is done. */
export const NO_PIECES: Pieces = [];

/** Does all of it now. */
export function doAll(pieces: Pieces): void {
  for (const _ of pieces) {
    // Nobody else has to be heard.
  }
}

interface WaitingFile {
  readonly file: AskedFile;
  readonly isCold: boolean;
  readonly read: () => Pieces;
}

interface WaitingBytes<T> {
  readonly bytes: Uint8Array | T;
  readonly length: number;
}

/**
 * Bytes (or what becomes bytes at the end of their way) and the contents of files on their way out, in order: the kernel is asked for the files (posix_fadvise) while
 * those before them are read. Nothing is read but by `advance` and `drain` and what they answer, so that their errors are those
 * of the files before. Disposal closes what was not read.
 */
export class ReadAhead<T = never> implements Disposable {
  readonly #out: (bytes: Uint8Array | T) => void;
  readonly #waiting: (WaitingBytes<T> | WaitingFile)[] = [];
  #files = 0;
  /** Of them: those that are not in memory, as far as is known. */
  #cold = 0;
  #bytes = 0;
  readonly #disk = new DiskReads();

  constructor(out: (bytes: Uint8Array | T) => void) {
    this.#out = out;
  }

  /** Whether what comes next is next on its way out. */
  get isEmpty(): boolean {
    return this.#waiting.length === 0;
  }

  /** What lies between files; copied where it has to wait. */
  bytes(bytes: Uint8Array): void {
    // Not "no file waits": bytes that waited behind one may still be there when it is gone.
    if (this.#waiting.length === 0) this.#out(bytes);
    else this.#wait(Buffer.from(bytes), bytes.length);
  }

  /** As `bytes`, of what becomes about so many bytes. */
  later(what: T, length: number): void {
    if (this.#waiting.length === 0) this.#out(what);
    else this.#wait(what, length);
  }

  #wait(bytes: Uint8Array | T, length: number): void {
    this.#waiting.push({ bytes, length });
    this.#bytes += length;
  }

  /** Takes `file` over and disposes of it after what `read` answers, which is called when all before it is out. */
  file(file: AskedFile, read: () => Pieces): void {
    const { fd, sizeBytes } = file;
    const isCold = sizeBytes > 0 && !(isCached(fd, sizeBytes) ?? !this.#disk.happen());
    if (isCold) readAhead(fd, Math.min(sizeBytes, AHEAD_BYTES));
    this.#waiting.push({ file, isCold, read });
    this.#files++;
    if (isCold) this.#cold++;
  }

  /** Reads what is one too many, and all of it where nothing of it has to come from a disk. */
  advance(): Pieces {
    while (this.#isDue()) {
      const pieces = this.#next();
      if (pieces !== NO_PIECES) return this.#onwards(pieces);
    }
    return NO_PIECES;
  }

  /** Nothing waits afterwards. */
  *drain(): Generator<void, void, undefined> {
    while (this.#waiting.length > 0) yield* this.#next();
  }

  #isDue(): boolean {
    return this.#waiting.length > 0 && (this.#cold === 0 || this.#files > FILES_MAX || this.#bytes > BYTES_MAX);
  }

  *#onwards(first: Pieces): Generator<void, void, undefined> {
    yield* first;
    while (this.#isDue()) yield* this.#next();
  }

  #next(): Pieces {
    const next = this.#waiting.shift();
    if (next === undefined) return NO_PIECES;
    if ('bytes' in next) {
      this.#bytes -= next.length;
      this.#out(next.bytes);
      return NO_PIECES;
    }
    this.#files--;
    if (next.isCold) this.#cold--;
    let pieces = NO_PIECES;
    try {
      pieces = next.read();
    } finally {
      if (pieces === NO_PIECES) next.file[Symbol.dispose]();
    }
    return pieces === NO_PIECES ? NO_PIECES : disposing(next.file, pieces);
  }

  [Symbol.dispose](): void {
    for (const next of this.#waiting.splice(0)) if ('file' in next) next.file[Symbol.dispose]();
  }
}

function* disposing(file: AskedFile, pieces: Pieces): Generator<void, void, undefined> {
  using _ = file;
  yield* pieces;
}

/** Whether this process waits for disks, where the kernel does not tell what it has in memory: then to ask takes longer than it gains. */
class DiskReads {
  #looks = 0;
  #before = -1;
  #happen = true;

  happen(): boolean {
    if (this.#looks++ % LOOK_FILES !== 0) return this.#happen;
    const { fsRead } = process.resourceUsage();
    this.#happen = fsRead !== this.#before;
    this.#before = fsRead;
    return this.#happen;
  }
}
