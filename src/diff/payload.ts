import { writeSync } from 'node:fs';
import { writeAroundZeros } from '../fs/transfer.ts';
import { ftruncate } from '../linux/inode.ts';
import type { TarEntry } from '../tar/types.ts';
import { refusal } from './layer-tree.ts';

/** The content of one file of an archive, on its way into an open file, which stays the asker's. */
export class Payload {
  readonly fd: number;
  readonly entry: TarEntry;
  readonly #zerosAreHoles: boolean;
  /** Index of the run of a sparse file that comes next. */
  #extent = 0;
  /** How much is written of it, or of a file without runs. */
  #at = 0;
  #endsInHole = false;

  /** `zerosAreHoles`: blocks of zeros are left out. */
  constructor(fd: number, entry: TarEntry, zerosAreHoles: boolean) {
    this.fd = fd;
    this.entry = entry;
    this.#zerosAreHoles = zerosAreHoles;
  }

  write(bytes: Uint8Array): void {
    const { fd, entry } = this;
    if (entry.sparse !== undefined) this.#writeRuns(bytes, entry.sparse);
    else if (this.#zerosAreHoles) {
      this.#endsInHole = !writeAroundZeros(fd, bytes, this.#at);
      this.#at += bytes.length;
    } else for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at, bytes.length - at);
  }

  #writeRuns(bytes: Uint8Array, runs: NonNullable<TarEntry['sparse']>): void {
    for (let at = 0; at < bytes.length; ) {
      const run = runs[this.#extent];
      if (run === undefined) throw refusal(this.entry.name, 'more payload than its sparse map has room for');
      const n = Math.min(bytes.length - at, run.length - this.#at);
      const done = n === 0 ? 0 : writeSync(this.fd, bytes, at, n, run.offset + this.#at);
      at += done;
      this.#at += done;
      if (this.#at === run.length) {
        this.#extent++;
        this.#at = 0;
      }
    }
  }

  /** All of it is written: what ends in a hole gets its size. */
  end(): void {
    if (this.entry.sparse !== undefined || this.#endsInHole) ftruncate(this.fd, this.entry.sizeBytes);
  }
}
