import type { Abortable, LayerId } from '../base/values.ts';
import { fstat } from '../linux/inode.ts';
import { Witness } from '../linux/sync.ts';
import type { StoreContext } from './context.ts';

/** Layers and records that are about to be written, and then are to last. Opened before their first byte. */
export class Durable implements Disposable {
  readonly #context: StoreContext;
  readonly #layers: Witness;
  readonly #records: Witness;
  /** Both are on one filesystem. */
  readonly #isOne: boolean;

  private constructor(context: StoreContext, layers: Witness, records: Witness) {
    this.#context = context;
    this.#layers = layers;
    this.#records = records;
    this.#isOne = fstat(layers.fd).dev === fstat(records.fd).dev;
  }

  static async open(context: StoreContext): Promise<Durable> {
    const { driver, database } = context;
    await driver.capabilities(); // it makes its home when it is opened
    const layers = new Witness(driver.home);
    try {
      return new Durable(context, layers, new Witness(database.layout.records));
    } catch (error) {
      layers[Symbol.dispose]();
      throw error;
    }
  }

  /** They are on the disk, and read-only; throws where any of it could not be written. */
  async seal(ids: readonly LayerId[], options: Abortable): Promise<void> {
    const { driver, threads } = this.#context;
    const { signal } = options;
    const heeded = signal === undefined ? {} : { signal };
    await driver.seal(ids, { ...heeded, by: this.#layers });
    // One sync is of a whole filesystem, and so is what its witness sees.
    if (this.#isOne) return;
    await threads.perform.sync(this.#records.path, { ...heeded, by: this.#records });
  }

  [Symbol.dispose](): void {
    this.#layers[Symbol.dispose]();
    this.#records[Symbol.dispose]();
  }
}
