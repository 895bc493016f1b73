import { type Digest, digestOf } from '../../src/base/digest.ts';
import type { DriverName, LayerId } from '../../src/base/values.ts';
import { absoluteBytes } from '../../src/base/working-directory.ts';
import { chainId } from '../../src/oci/chain-id.ts';
import { type Database, type DatabaseOptions, openDatabase } from '../../src/store/database.ts';
import { type Commit, type Committed, makingsOf, type NewImage, type NewLayer } from '../../src/store/rows.ts';

/** Opens with overlay2 where a store is to be made. */
export function open(root: string, options: Partial<DatabaseOptions> = {}): Promise<Database> {
  return openDatabase(absoluteBytes(root), {
    create: true,
    choose: async (): Promise<DriverName> => 'overlay2',
    ...options,
  });
}

/** Layers of those contents, bottom first, on `base`; each run gives new driver ids. */
export function layersOf(contents: readonly string[], base?: NewLayer): NewLayer[] {
  let below = base;
  return contents.map((content) => {
    const diffId = digestOf(content);
    const driverId = crypto.randomUUID().replaceAll('-', '') as LayerId;
    below = {
      driverId,
      ...(below === undefined ? {} : { parent: below.driverId }),
      diffId,
      chainId: chainId(below?.chainId, diffId),
      recordFile: `records/${driverId}`,
      exact: { holds: true, because: 'replayed from the files' },
      sizeBytes: content.length,
      tarBytes: 1024,
      inodes: 1,
    };
    return below;
  });
}

export function imageOf(text: string, layers: readonly NewLayer[], names: readonly string[] = []): NewImage {
  const config = Buffer.from(JSON.stringify({ text, rootfs: { diff_ids: layers.map((one) => one.diffId) } }));
  const manifest = Buffer.from(`manifest of ${text}`);
  const top = layers.at(-1)?.chainId;
  return {
    digest: digestOf(config),
    config,
    ...(top === undefined ? {} : { chainId: top }),
    platform: 'linux/amd64',
    createdAt: '2026-01-01T00:00:00Z',
    manifest: { digest: digestOf(manifest), mediaType: 'application/vnd.oci.image.manifest.v1+json', bytes: manifest },
    names,
  };
}

/** Begins and commits, as a load does. */
export async function load(
  db: Database,
  layers: readonly NewLayer[],
  images: readonly NewImage[],
  rest: Partial<Commit> = {},
): Promise<Committed> {
  await db.begin(layers.flatMap(makingsOf));
  return db.commitImages({ layers, images, blobs: [], ...rest });
}

/** A full reference on Docker Hub. */
export function hub(name: string): string {
  return `docker.io/library/${name}`;
}

export function fakeDigest(text: string): Digest {
  return digestOf(text);
}
