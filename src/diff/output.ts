import type { ByteString } from '../base/bytes.ts';
import { readSome } from '../fs/transfer.ts';
import type { ToldEntry } from '../tar/told.ts';
import type { TarEntry } from '../tar/types.ts';
import { encodeEntry, writeEntry } from '../tar/write.ts';

/** Takes the next bytes of a tar, and the entries whose headers end in them; both are borrowed until it returns. */
export type TarPieces = (bytes: Uint8Array, entries: readonly ToldEntry[]) => void;

const BUFFER_BYTES = 1024 * 1024;
const FIRST_BYTES = 16 * 1024;

/**
 * Gathers small pieces, so that the receiver sees few large ones; files are read straight into the buffer. The first
 * ones are smaller, each twice as large as the one before: the receiver is to have something to do early.
 */
export class Output {
  readonly #buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  /** The same, of which parts are taken by V8 itself. */
  readonly #bytes = new Uint8Array(this.#buffer.buffer);
  readonly #out: TarPieces;
  readonly #entries: ToldEntry[] = [];
  #room = FIRST_BYTES;
  #used = 0;

  constructor(out: TarPieces) {
    this.#out = out;
  }

  write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      if (this.#used === this.#room) this.flush();
      const part = bytes.subarray(at, at + this.#room - this.#used);
      this.#buffer.set(part, this.#used);
      this.#used += part.length;
      at += part.length;
    }
  }

  /** Its headers; its payload comes next. */
  entry(entry: TarEntry): void {
    const end = writeEntry(entry, this.#buffer, this.#used, this.#room);
    if (end === undefined) this.write(encodeEntry(entry));
    else this.#used = end;
    this.#entries.push({ at: this.#used, entry });
  }

  /** `sizeBytes` from the descriptor; false when it ends before. */
  copy(fd: number, sizeBytes: number, path: ByteString): boolean {
    for (let left = sizeBytes; left > 0; ) {
      if (this.#used === this.#room) this.flush();
      const read = readSome(fd, this.#buffer, this.#used, Math.min(left, this.#room - this.#used), path);
      if (read === 0) return false;
      this.#used += read;
      left -= read;
    }
    return true;
  }

  zeros(count: number): void {
    for (let left = count; left > 0; ) {
      if (this.#used === this.#room) this.flush();
      const part = Math.min(left, this.#room - this.#used);
      this.#buffer.fill(0, this.#used, this.#used + part);
      this.#used += part;
      left -= part;
    }
  }

  flush(): void {
    if (this.#used > 0) this.#out(this.#bytes.subarray(0, this.#used), this.#entries);
    this.#entries.length = 0;
    this.#used = 0;
    this.#room = Math.min(BUFFER_BYTES, this.#room * 2);
  }
}
