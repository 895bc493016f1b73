/**
 * What comes in batches, one by one: an async generator for each step on the way of each item takes longer than it takes
 * to find them.
 */
export class Items<T> implements AsyncIterable<T> {
  readonly batches: AsyncIterable<readonly T[]>;

  constructor(batches: AsyncIterable<readonly T[]>) {
    this.batches = batches;
  }

  /** As they come: those of `items`, or each for itself. */
  static batchesOf<T>(items: AsyncIterable<T>): AsyncIterable<readonly T[]> {
    return items instanceof Items ? items.batches : single(items);
  }

  [Symbol.asyncIterator](): AsyncIterableIterator<T, void, undefined> {
    return new ItemIterator(this.batches[Symbol.asyncIterator]());
  }
}

async function* single<T>(items: AsyncIterable<T>): AsyncGenerator<readonly T[], void, undefined> {
  for await (const item of items) yield [item];
}

class ItemIterator<T> implements AsyncIterableIterator<T, void, undefined> {
  readonly #source: AsyncIterator<readonly T[]>;
  #batch: readonly T[] = [];
  #at = 0;
  /** What was asked for before its answer came, as a generator has it: one after another. */
  #asked: Promise<unknown> | undefined;

  constructor(source: AsyncIterator<readonly T[]>) {
    this.#source = source;
  }

  next(): Promise<IteratorResult<T, void>> {
    if (this.#asked === undefined && this.#at < this.#batch.length) return Promise.resolve(this.#item());
    return this.#inTurn(() => this.#more());
  }

  return(): Promise<IteratorResult<T, void>> {
    return this.#inTurn(async () => {
      this.#batch = [];
      await this.#source.return?.();
      return { done: true, value: undefined };
    });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  #item(): IteratorResult<T, void> {
    return { done: false, value: this.#batch[this.#at++] as T };
  }

  async #more(): Promise<IteratorResult<T, void>> {
    while (this.#at >= this.#batch.length) {
      const { done, value } = await this.#source.next();
      if (done === true) return { done: true, value: undefined };
      this.#batch = value;
      this.#at = 0;
    }
    return this.#item();
  }

  #inTurn(answer: () => Promise<IteratorResult<T, void>>): Promise<IteratorResult<T, void>> {
    const asked = this.#asked === undefined ? answer() : this.#asked.then(answer);
    const over = (): void => {
      if (this.#asked === settled) this.#asked = undefined;
    };
    const settled: Promise<void> = asked.then(over, over);
    this.#asked = settled;
    return asked;
  }
}
