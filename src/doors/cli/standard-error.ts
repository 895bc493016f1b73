/** Standard error, made at its first use. Where it is gone, that does not end a run that works. */
export class StandardError {
  #stream: NodeJS.WriteStream | undefined;

  get stream(): NodeJS.WriteStream {
    if (this.#stream === undefined) {
      this.#stream = process.stderr;
      this.#stream.on('error', () => {});
    }
    return this.#stream;
  }

  /** All that was written is out. */
  async flush(): Promise<void> {
    const stream = this.#stream;
    if (stream !== undefined) await new Promise<unknown>((done) => stream.write('', done));
  }
}
