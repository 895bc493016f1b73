import { closeSync, fstatSync, mkdirSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { LayerMode } from '../src/driver/driver.ts';
import { DelegatingDriver } from '../src/graph/delegating-driver.ts';
import { type LayerId, type StorageDriver, toText } from '../src/index.ts';
import type { Fixture } from './fixtures.ts';

// The layers that differ.ts reads.

/** A writable layer, and how it is written and read: as mount options, so that no parameter of the kernel is touched. */
export interface Layer {
  readonly id: LayerId;
  readonly parent: LayerId;
  readonly mode: LayerMode;
}

/** A driver whose uppers say too little, as those of kernels before 4.8 do: whole trees are compared. */
export class Walking extends DelegatingDriver {
  override async capabilities(): ReturnType<DelegatingDriver['capabilities']> {
    const found = await super.capabilities();
    return { ...found, diff: { ...found.diff, diffFrom: 'mounted', because: 'the bench wants it so' } };
  }
}

/** The image's layers, on each other; answers the top one. */
export async function unpackImage(driver: StorageDriver, { blobs }: Fixture): Promise<LayerId> {
  let parent: LayerId | undefined;
  for (const [i, blob] of blobs.entries()) {
    const id = `image${i}` as LayerId;
    await driver.create(id, { writable: false, ...(parent === undefined ? {} : { parent }) });
    const fd = openSync(blob, 'r');
    try {
      await driver.apply(id, { fd, offset: 0, length: fstatSync(fd).size }, { fresh: true });
    } finally {
      closeSync(fd);
    }
    await driver.seal([id]);
    parent = id;
  }
  return parent as LayerId;
}

const FILES_IN_DIRECTORY = 100;
const DIRECTORIES_IN_GROUP = 100;
const FILE_BYTES = 100;

/** The directory of a generated tree that has everything in it. */
export const TREE = 'tree';

/** A layer of about `entries` entries below `TREE`: a hundred files in each directory, and a hundred directories in each. */
export async function generateTree(driver: StorageDriver, entries: number): Promise<LayerId> {
  const id = 'generated' as LayerId;
  await driver.create(id, { writable: false });
  const root = join(toText((await driver.content(id)).root), TREE);
  const data = Buffer.alloc(FILE_BYTES, 'data\n');
  for (let made = 0, i = 0; made < entries; i++) {
    const directory = join(root, `g${Math.floor(i / DIRECTORIES_IN_GROUP)}`, `d${i % DIRECTORIES_IN_GROUP}`);
    mkdirSync(directory, { recursive: true });
    made++;
    for (let j = 0; j < FILES_IN_DIRECTORY && made < entries; j++, made++) {
      writeFileSync(join(directory, `f${j}`), data);
    }
  }
  await driver.seal([id]);
  return id;
}

/** A writable layer on `parent`, with what `change` does to its mounted tree. */
export async function writtenLayer(
  driver: StorageDriver,
  name: string,
  parent: LayerId,
  mode: LayerMode,
  change: (tree: string) => void,
): Promise<Layer> {
  const id = name as LayerId;
  await driver.create(id, { parent, writable: true });
  await using mounted = await driver.mount(id, { mode });
  change(toText(mounted.path));
  return { id, parent, mode };
}
