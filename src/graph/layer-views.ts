import type { ByteString } from '../base/bytes.ts';
import { StorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';
import type { LayerDriver, LayerMode, LayerReading } from '../driver/driver.ts';
import type { Mount } from '../mount/mount.ts';
import type { Views } from './jobs/views.ts';

/** How the layer that is read, and those below it, were written. */
export interface Written {
  /** Default: as the kernel's defaults are now. */
  readonly mode?: LayerMode;
}

/** A layer with the one mount that shows it. */
interface Reading extends LayerReading {
  readonly view: Mount;
}

/** The two trees that a driver's layer is the difference of. */
export class LayerViews {
  readonly #driver: LayerDriver;
  readonly #scratch: ByteString;

  /** `scratch`: an existing directory that holds nothing a job reads. */
  constructor(driver: LayerDriver, scratch: ByteString) {
    this.#driver = driver;
    this.#scratch = scratch;
  }

  /** What `id` changes of `parent`; without: of nothing. */
  async of(id: LayerId, parent: LayerId | undefined, written: Written): Promise<Views> {
    return this.#viewsOf(await this.#read(id, written), parent, written);
  }

  /** What `id` changes of the layer that it was made on. */
  async own(id: LayerId, written: Written): Promise<Views> {
    const reading = await this.#read(id, written);
    return this.#viewsOf(reading, reading.parent, written);
  }

  async #viewsOf(reading: Reading, parent: LayerId | undefined, written: Written): Promise<Views> {
    const { content, view } = reading;
    const base = parent === undefined ? undefined : (await this.#read(parent, written)).view;
    const { diff } = await this.#driver.capabilities();
    return {
      view,
      ...(base === undefined ? {} : { base }),
      ...(content.whiteouts !== 'none' && reading.parent === parent
        ? {
            upper: {
              upper: content.root,
              style: content.whiteouts,
              noIndex: isWithoutIndex(view),
            },
            ...(diff.diffFrom === 'mounted' ? { whole: diff.because } : {}),
          }
        : {}),
      ...(content.createdNs === undefined ? {} : { createdNs: content.createdNs }),
      scratch: this.#scratch,
    };
  }

  async #read(id: LayerId, { mode }: Written): Promise<Reading> {
    const reading = await this.#driver.reading(id, mode === undefined ? {} : { mode });
    const [view, ...others] = reading.mounts;
    if (view === undefined || others.length > 0) {
      throw new StorageError(
        'internal',
        `Cannot read layer "${id}": ${reading.mounts.length} mounts are planned for it`,
      );
    }
    return { ...reading, view };
  }
}

/** Whether nothing that was mounted so can have left an index; a bind has no other layers whose links could be kept. */
function isWithoutIndex(plan: Mount): boolean {
  return plan.type === 'bind' || plan.index === 'off';
}
