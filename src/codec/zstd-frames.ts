import { StorageError } from '../base/errors.ts';

/** Largest window that we give a frame memory for: what `zstd --long=27` makes and every decoder takes by default. */
export const WINDOW_LOG_MAX = 27;
const WINDOW_BYTES_MAX = 2 ** WINDOW_LOG_MAX;

type Field = 'magic' | 'skippable-size' | 'descriptor' | 'header' | 'block';

const MAGIC = 0xfd2fb528;

/**
 * Follows the frames of a zstd stream (RFC 8878, 3.1) by their headers, hopping over all content. Node's handle hides
 * whether a frame is complete, and libzstd judges windows only where it has not the whole frame at once: by this, the
 * verdict on truncation, windows, dictionaries and trailing bytes depends on the bytes alone, never on their chunking.
 * Absent on purpose: everything about the content, which libzstd checks.
 */
export class ZstdFrames {
  #field: Field = 'magic';
  readonly #bytes: Buffer = Buffer.alloc(14);
  #have = 0;
  #want = 4;
  /** Bytes of content before the next field. */
  #skip = 0;
  #frames = 0;
  #checksum = false;
  #singleSegment = false;
  #dictionaryBytes = 0;
  #contentSizeBytes = 0;
  /** Of the byte after the last one read. */
  #offset = 0;

  /** Takes the next bytes of the stream; `corrupt` at the first header that we refuse. */
  read(chunk: Uint8Array): void {
    const base = this.#offset;
    let at = 0;
    while (at < chunk.length) {
      if (this.#skip > 0) {
        const hop = Math.min(this.#skip, chunk.length - at);
        this.#skip -= hop;
        at += hop;
        continue;
      }
      this.#bytes[this.#have++] = chunk[at++]!;
      if (this.#have < this.#want) continue;
      this.#offset = base + at;
      this.#have = 0;
      this.#take();
    }
    this.#offset = base + chunk.length;
  }

  /** Whether the bytes so far are one frame or several, each whole. */
  get complete(): boolean {
    return this.#frames > 0 && this.#field === 'magic' && this.#have === 0 && this.#skip === 0;
  }

  /** The stream ends here: `corrupt` if that is inside a frame, or before the first one. */
  end(): void {
    if (this.complete) return;
    throw new StorageError(
      'corrupt',
      `Cannot inflate the zstd data: it is cut off at input byte ${this.#offset}, before the end of a frame; fetch the blob again`,
    );
  }

  #expect(field: Field, bytes: number, afterBytes = 0): void {
    this.#field = field;
    this.#want = bytes;
    this.#skip = afterBytes;
  }

  #take(): void {
    if (this.#field === 'block') this.#takeBlock(this.#bytes.readUIntLE(0, 3));
    else if (this.#field === 'magic') this.#takeMagic(this.#bytes.readUInt32LE(0));
    else if (this.#field === 'descriptor') this.#takeDescriptor(this.#bytes[0]!);
    else if (this.#field === 'header') this.#takeHeader();
    else this.#expect('magic', 4, this.#bytes.readUInt32LE(0));
  }

  #takeMagic(magic: number): void {
    this.#frames++;
    if (magic === MAGIC) this.#expect('descriptor', 1);
    else if (magic >>> 4 === 0x184d2a5) this.#expect('skippable-size', 4);
    else
      this.#refuse(this.#frames === 1 ? 'it does not begin with a frame' : 'what follows the last frame is no frame');
  }

  #takeDescriptor(descriptor: number): void {
    this.#checksum = (descriptor & 0x04) !== 0;
    this.#singleSegment = (descriptor & 0x20) !== 0;
    this.#dictionaryBytes = [0, 1, 2, 4][descriptor & 0x03]!;
    this.#contentSizeBytes = [this.#singleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
    this.#expect('header', (this.#singleSegment ? 0 : 1) + this.#dictionaryBytes + this.#contentSizeBytes);
  }

  #takeHeader(): void {
    const dictionaryAt = this.#singleSegment ? 0 : 1;
    const sizeAt = dictionaryAt + this.#dictionaryBytes;
    const windowBytes = this.#singleSegment ? this.#contentSize(sizeAt) : windowOf(this.#bytes[0]!);
    if (windowBytes > WINDOW_BYTES_MAX) {
      const why = `a frame wants a window of ${windowBytes} bytes, and ${WINDOW_BYTES_MAX} is the most we give`;
      this.#refuse(why, 'repack it without --long and --ultra');
    }
    // An id of 0 says "no dictionary".
    const dictionary = this.#dictionaryBytes === 0 ? 0 : this.#bytes.readUIntLE(dictionaryAt, this.#dictionaryBytes);
    if (dictionary !== 0) this.#refuse(`a frame wants dictionary ${dictionary}, and we have none`, 'repack it without');
    this.#expect('block', 3);
  }

  #contentSize(at: number): number {
    switch (this.#contentSizeBytes) {
      case 1:
        return this.#bytes[at]!;
      case 2:
        return this.#bytes.readUInt16LE(at) + 256;
      case 4:
        return this.#bytes.readUInt32LE(at);
      default:
        return Number(this.#bytes.readBigUInt64LE(at));
    }
  }

  #takeBlock(header: number): void {
    const type = (header >> 1) & 0x03;
    if (type === 3) this.#refuse('a block has the reserved type');
    // A run-length block holds one byte, however long it becomes.
    const sizeBytes = type === 1 ? 1 : header >> 3;
    if ((header & 1) === 0) this.#expect('block', 3, sizeBytes);
    else this.#expect('magic', 4, sizeBytes + (this.#checksum ? 4 : 0));
  }

  /** At the field just taken. */
  #refuse(why: string, remedy = 'fetch the blob again'): never {
    const at = this.#offset - this.#want;
    throw new StorageError('corrupt', `Cannot inflate the zstd data: at input byte ${at} ${why}; ${remedy}`);
  }
}

/** Window_Descriptor to bytes (RFC 8878, 3.1.1.1.2): 1 KiB to 3.75 TiB. */
function windowOf(descriptor: number): number {
  return 2 ** (10 + (descriptor >> 3)) * (1 + (descriptor & 0x07) / 8);
}
