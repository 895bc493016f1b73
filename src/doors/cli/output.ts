import { type ByteString, fromText, toBytes } from '../../base/bytes.ts';
import { type DirectOutput, directOutput } from './direct-output.ts';

const FLUSH_BYTES = 32 * 1024;

/**
 * Standard output: data only. Text and bytes are gathered and written at the reader's pace. A reader that went away is
 * told to `onBroken` (once), and what is written afterwards is dropped.
 */
export class Output {
  readonly isTerminal: boolean;
  readonly #signal: AbortSignal;
  readonly #onBroken: () => void;
  #direct: DirectOutput | undefined;
  #stream: NodeJS.WriteStream | undefined;
  #gathered = '';
  #broken = false;
  #holdsBytes = false;

  constructor(signal: AbortSignal, onBroken: () => void) {
    this.#signal = signal;
    this.#onBroken = onBroken;
    this.#direct = directOutput();
    this.isTerminal = this.#direct === undefined && this.#opened().isTTY === true;
  }

  /** Node's own, made where it is needed. */
  #opened(): NodeJS.WriteStream {
    if (this.#stream !== undefined) return this.#stream;
    this.#stream = process.stdout;
    this.#stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') this.#lose(); // other errors reach whoever waits for the write
    });
    return this.#stream;
  }

  /** Whether a reader that went away has a part of an archive. Of lines a part is what he wanted. */
  get isCut(): boolean {
    return this.#broken && this.#holdsBytes;
  }

  #lose(): void {
    if (this.#broken) return;
    this.#broken = true;
    this.#onBroken();
  }

  /** One line of text. */
  line(text: string): Promise<void> | undefined {
    return this.lineBytes(fromText(text));
  }

  /** One line that may hold any bytes. */
  lineBytes(line: ByteString): Promise<void> | undefined {
    this.#gathered += `${line}\n`;
    return this.#gathered.length >= FLUSH_BYTES ? this.flush() : undefined;
  }

  /** Bytes as they are, after everything before them. */
  async bytes(chunk: Uint8Array): Promise<void> {
    await this.flush();
    this.#holdsBytes = true;
    await this.#write(chunk);
  }

  /** Writes out what was gathered. */
  async flush(): Promise<void> {
    if (this.#gathered === '') return;
    const chunk = toBytes(this.#gathered as ByteString);
    this.#gathered = '';
    await this.#write(chunk);
  }

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#broken) return;
    try {
      const done = this.#direct?.write(chunk) ?? 0;
      if (done === chunk.length) return;
      this.#direct = undefined; // its reader is slow
      await this.#writeToStream(chunk.subarray(done));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EPIPE') throw error;
      this.#lose();
    }
  }

  #writeToStream(chunk: Uint8Array): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = (): void => reject(this.#signal.reason);
    this.#signal.addEventListener('abort', onAbort, { once: true });
    this.#opened().write(chunk, (error) => {
      this.#signal.removeEventListener('abort', onAbort);
      if (error == null) resolve();
      else reject(error);
    });
    return promise;
  }
}
