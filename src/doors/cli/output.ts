import { type ByteString, fromText, toBytes } from '../../base/bytes.ts';

const FLUSH_BYTES = 32 * 1024;

/**
 * Standard output: data only. Text and bytes are gathered and written at the reader's pace. A reader that went away is
 * told to `onBroken` (once), and what is written afterwards is dropped.
 */
export class Output {
  readonly isTerminal: boolean;
  readonly #stream: NodeJS.WriteStream;
  readonly #signal: AbortSignal;
  readonly #onBroken: () => void;
  #gathered = '';
  #broken = false;
  #holdsBytes = false;

  constructor(stream: NodeJS.WriteStream, signal: AbortSignal, onBroken: () => void) {
    this.#stream = stream;
    this.#signal = signal;
    this.#onBroken = onBroken;
    this.isTerminal = stream.isTTY === true;
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EPIPE') this.#lose(); // other errors reach whoever waits for the write
    });
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

  #write(chunk: Uint8Array): Promise<void> {
    if (this.#broken) return Promise.resolve();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const onAbort = (): void => reject(this.#signal.reason);
    this.#signal.addEventListener('abort', onAbort, { once: true });
    this.#stream.write(chunk, (error) => {
      this.#signal.removeEventListener('abort', onAbort);
      const lost = (error as NodeJS.ErrnoException | null | undefined)?.code === 'EPIPE';
      if (lost) this.#lose();
      if (error == null || lost) resolve();
      else reject(error);
    });
    return promise;
  }
}
