import { keepFlags } from './end.ts';

/** Standard input, made at its first use. */
export class StandardInput {
  #stream: NodeJS.ReadStream | undefined;

  get stream(): NodeJS.ReadStream {
    if (this.#stream === undefined) {
      keepFlags(0);
      this.#stream = process.stdin;
    }
    return this.#stream;
  }
}
