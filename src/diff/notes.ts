import { type ByteString, quote } from '../base/bytes.ts';

const KINDS_MAX = 100;

/** What an archive had that could not be taken over, each kind once with its first example and a count. */
export class Notes {
  readonly #kinds = new Map<string, { readonly example: ByteString; count: number }>();

  add(kind: string, example: ByteString): void {
    const known = this.#kinds.get(kind);
    if (known !== undefined) known.count++;
    else if (this.#kinds.size < KINDS_MAX)
      this.#kinds.set(kind, { example: example.slice(0, 256) as ByteString, count: 1 });
  }

  list(): string[] {
    return [...this.#kinds].map(([kind, { example, count }]) =>
      count === 1 ? `${kind}: ${quote(example)}` : `${kind}: ${quote(example)} and ${count - 1} more`,
    );
  }
}
