import type { Digest } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import { familiarReference, parseReference } from '../oci/reference.ts';
import type { Connection } from './connection.ts';
import {
  candidates,
  chainRows,
  committedRows,
  end,
  insertLayers,
  layer,
  now,
  rowOfChain,
  unpin,
} from './database-layers.ts';
import { shownPath } from './layout.ts';
import type { BlobRow, Commit, Committed, ImageKey, LayerRow, Maker, ManifestRow, NewImage, Removal } from './rows.ts';
import type { Image, StoredLayer } from './types.ts';

// The database's answers about images. Each function is called inside a transaction.

interface ImageColumns {
  readonly digest: Digest;
  readonly config: Uint8Array;
  readonly layer: number | null;
  readonly platform: string;
  readonly created_at: string | null;
  readonly manifest: Digest | null;
}

// The manifest it came with: the first, where it came with several.
const IMAGE = `SELECT digest, config, layer, platform, created_at, (SELECT m.digest FROM manifests m
  WHERE m.image = images.digest ORDER BY m.rowid LIMIT 1) AS manifest FROM images`;

/** What an image says of a layer; a list of images reads this much of thousands. */
interface Link {
  readonly diffId?: Digest | null;
  readonly chainId?: Digest | null;
  readonly sizeBytes: number;
}

function toImage(c: ImageColumns, names: readonly string[], layers: readonly Link[]): Image {
  const chainId = layers.at(-1)?.chainId ?? undefined;
  return {
    id: c.digest,
    names,
    ...(c.manifest === null ? {} : { manifestDigest: c.manifest }),
    config: c.config,
    diffIds: layers.flatMap((row) => row.diffId ?? []),
    ...(chainId === undefined ? {} : { chainId }),
    platform: c.platform,
    ...(c.created_at === null ? {} : { createdAt: c.created_at }),
    sizeBytes: layers.reduce((sum, row) => sum + row.sizeBytes, 0),
  };
}

/** All of them, the latest first. */
export function images(db: Connection): Image[] {
  const layers = new Map(
    db
      .all<Link & { readonly id: number; readonly parentRow: number | null }>(
        `SELECT id, parent AS parentRow, diff_id AS diffId, chain_id AS chainId, size_bytes AS sizeBytes FROM layers
         WHERE kind = 'committed'`,
      )
      .map((row) => [row.id, row]),
  );
  const names = Map.groupBy(
    db.all<{ name: string; image: Digest }>('SELECT name, image FROM refs ORDER BY name'),
    (row) => row.image,
  );
  return db.all<ImageColumns>(`${IMAGE} ORDER BY created_ns DESC, digest`).map((c) =>
    toImage(
      c,
      (names.get(c.digest) ?? []).map((row) => row.name),
      climb(layers, c.layer),
    ),
  );
}

/** From `top` down through `layers`, answered bottom first. */
function climb<T extends { readonly parentRow: number | null }>(
  layers: ReadonlyMap<number, T>,
  top: number | null,
): T[] {
  const chain: T[] = [];
  for (let at = top; at !== null; ) {
    const row = layers.get(at);
    if (row === undefined) break;
    chain.push(row);
    at = row.parentRow;
  }
  return chain.reverse();
}

/** By full reference, else by the beginning of a digest that begins no other. */
export function digestOfKey(db: Connection, { text, reference, prefix }: ImageKey): Digest {
  if (reference !== undefined) {
    const named = db.first<{ image: Digest }>('SELECT image FROM refs WHERE name = ?', reference);
    if (named !== undefined) return named.image;
  }
  const found =
    prefix === undefined
      ? []
      : db.all<{ digest: Digest }>(
          'SELECT digest FROM images WHERE digest >= ? AND digest < ? ORDER BY 1',
          prefix,
          `${prefix}g`,
        );
  if (found.length === 1) return found[0]!.digest;
  if (found.length === 0) {
    throw new StorageError(
      'not-found',
      `Cannot find the image ${shownPath(text)}: ${soughtOf({ text, ...(reference === undefined ? {} : { reference }) })}`,
      { remedy: '"layerstore images" lists what there is' },
    );
  }
  throw new StorageError(
    'invalid-argument',
    `Cannot tell which image ${shownPath(text)} is: ${candidates(found.map((row) => row.digest.slice(0, 19)))} begin so; give more of the id`,
  );
}

/** What was looked for and is not there: a name gets its tag when it is read. */
function soughtOf({ text, reference }: ImageKey): string {
  const name = reference === undefined ? text : short(reference);
  return name === text
    ? 'the store has none of that name or id'
    : `the store has none named ${shownPath(name)}, and no id that begins so`;
}

/** `x:1` for `docker.io/library/x:1`. */
function short(reference: string): string {
  return familiarReference(parseReference(reference));
}

export function image(db: Connection, key: ImageKey): Image {
  return imageOf(db, digestOfKey(db, key));
}

function imageOf(db: Connection, digest: Digest): Image {
  const found = db.first<ImageColumns>(`${IMAGE} WHERE digest = ?`, digest)!;
  return toImage(found, namesOf(db, digest), found.layer === null ? [] : chainRows(db, found.layer));
}

function namesOf(db: Connection, digest: Digest): string[] {
  return db.all<{ name: string }>('SELECT name FROM refs WHERE image = ? ORDER BY name', digest).map((row) => row.name);
}

/** Its layers, bottom first. */
export function imageLayers(db: Connection, key: ImageKey): LayerRow[] {
  const found = db.first<{ layer: number | null }>('SELECT layer FROM images WHERE digest = ?', digestOfKey(db, key));
  return found?.layer == null ? [] : chainRows(db, found.layer);
}

export function manifests(db: Connection, digest: Digest): ManifestRow[] {
  return db.all<ManifestRow>(
    'SELECT digest, image, media_type AS mediaType, bytes FROM manifests WHERE image = ? ORDER BY rowid',
    digest,
  );
}

/** Those of `digests` that are known. */
export function blobs(db: Connection, digests: readonly Digest[]): BlobRow[] {
  return db.all<BlobRow>(
    `SELECT digest, diff_id AS diffId, size_bytes AS sizeBytes, media_type AS mediaType FROM blobs
     WHERE digest IN (SELECT value FROM json_each(?))`,
    JSON.stringify(digests),
  );
}

/** Registers layers, images, their manifests and names, and what was learned about blobs. */
export function commit(db: Connection, request: Commit, maker: Maker): Committed {
  const lost = insertLayers(db, request.layers, maker);
  for (const blob of request.blobs) {
    db.run(
      'INSERT OR REPLACE INTO blobs (digest, diff_id, size_bytes, media_type) VALUES (?, ?, ?, ?)',
      blob.digest,
      blob.diffId,
      blob.sizeBytes,
      blob.mediaType,
    );
  }
  const done = request.images.map((one) => ({
    existed: insertImage(db, one),
    moved: one.names.flatMap((name) => {
      const from = point(db, name, one.digest);
      return from === undefined ? [] : [{ name, from }];
    }),
  }));
  if (request.pin !== undefined) unpin(db, request.pin);
  end(db, request.ended ?? []);
  return { lost, images: request.images.map((one, i) => ({ image: imageOf(db, one.digest), ...done[i]! })) };
}

function insertImage(db: Connection, one: NewImage): boolean {
  let top: number | undefined;
  if (one.chainId !== undefined) {
    top = rowOfChain(db, one.chainId);
    if (top === undefined) {
      throw new StorageError(
        'internal',
        `Cannot register image ${one.digest}: the store has no chain ${one.chainId}; pin what it lies on`,
      );
    }
  }
  const added = db.run(
    'INSERT OR IGNORE INTO images (digest, config, layer, platform, created_at, created_ns) VALUES (?, ?, ?, ?, ?, ?)',
    one.digest,
    one.config,
    top ?? null,
    one.platform,
    one.createdAt ?? null,
    now(),
  );
  if (one.manifest !== undefined) {
    db.run(
      'INSERT OR IGNORE INTO manifests (digest, image, media_type, bytes) VALUES (?, ?, ?, ?)',
      one.manifest.digest,
      one.digest,
      one.manifest.mediaType,
      one.manifest.bytes,
    );
  }
  return added === 0;
}

/** Makes `name` the image's; answers the other image that it was of until now. */
function point(db: Connection, name: string, digest: Digest): Digest | undefined {
  const before = db.first<{ image: Digest }>('SELECT image FROM refs WHERE name = ?', name)?.image;
  if (before === digest) return undefined;
  db.run('INSERT OR REPLACE INTO refs (name, image, created_ns) VALUES (?, ?, ?)', name, digest, now());
  return before;
}

export function tag(db: Connection, key: ImageKey, reference: string): { readonly movedFrom?: Digest } {
  const movedFrom = point(db, reference, digestOfKey(db, key));
  return movedFrom === undefined ? {} : { movedFrom };
}

/**
 * Takes names away, and images with their last name; all of it or, where one is refused, nothing. Named by id, an image
 * loses its only name, or all of them by `force`. An image with writable layers on it is *busy*, also by `force`.
 */
export function removeImages(db: Connection, keys: readonly ImageKey[], force: boolean): Removal {
  const tops: number[] = [];
  const results = keys.map((key) => {
    const digest = digestOfKey(db, key);
    const names = namesOf(db, digest);
    const byName = key.reference !== undefined && names.includes(key.reference);
    if (!byName && names.length > 1 && !force) {
      throw new StorageError(
        'busy',
        `Cannot remove image ${shownPath(key.text)}: it has ${names.length} names (${candidates(names.map(short))}); remove them by name, or all with --force`,
      );
    }
    const untagged = byName ? [key.reference] : names;
    for (const name of untagged) db.run('DELETE FROM refs WHERE name = ?', name);
    if (untagged.length < names.length) return { untagged };
    const users = db.all<{ name: string }>('SELECT name FROM names WHERE image = ? ORDER BY name', digest);
    if (users.length > 0) {
      const named = candidates(users.map((row) => shownPath(row.name)));
      throw new StorageError(
        'busy',
        `Cannot remove image ${shownPath(key.text)}: writable layers are on it (${named}); remove them first`,
      );
    }
    const top = db.first<{ layer: number | null }>('SELECT layer FROM images WHERE digest = ?', digest)?.layer;
    if (typeof top === 'number') tops.push(top);
    db.run('DELETE FROM images WHERE digest = ?', digest);
    return { untagged, removed: digest };
  });
  return { results, unreached: unreachedFrom(db, tops) };
}

/** Down from each of `tops` while nothing refers to the layer but what was passed: children first. */
function unreachedFrom(db: Connection, tops: readonly number[]): LayerRow[] {
  const passed = new Map<number, LayerRow>();
  // Higher rows first, so that a layer's children have been decided before it.
  const queue = [...new Set(tops)];
  for (;;) {
    queue.sort((a, b) => a - b);
    const id = queue.pop();
    if (id === undefined) return [...passed.values()];
    if (passed.has(id)) continue;
    const used = db.first(
      'SELECT 1 FROM names WHERE layer = ? UNION ALL SELECT 1 FROM images WHERE layer = ? LIMIT 1',
      id,
      id,
    );
    const children = db.all<{ id: number }>('SELECT id FROM layers WHERE parent = ?', id);
    if (used !== undefined || children.some((child) => !passed.has(child.id))) continue;
    const row = db.first<{ driver_id: string; parent: number | null }>(
      'SELECT driver_id, parent FROM layers WHERE id = ?',
      id,
    )!;
    passed.set(id, layer(db, row.driver_id)!);
    if (row.parent !== null) queue.push(row.parent);
  }
}

/** Layers of images, bottom first: of one image, or all, parents before children. */
export function storedLayers(db: Connection, key: ImageKey | undefined): StoredLayer[] {
  const layers = committedRows(db);
  const users = new Map<object, Set<string>>();
  const use = (top: number | null, name: string): void => {
    for (const row of climb(layers, top)) {
      const known = users.get(row);
      if (known === undefined) users.set(row, new Set([name]));
      else known.add(name);
    }
  };
  for (const row of db.all<{ digest: Digest; layer: number | null; name: string | null }>(
    'SELECT digest, layer, name FROM images LEFT JOIN refs ON refs.image = images.digest',
  )) {
    use(row.layer, row.name ?? row.digest);
  }
  for (const row of db.all<{ name: string; parent: number | null }>(
    `SELECT n.name, l.parent FROM names n JOIN layers l ON l.id = n.layer WHERE n.space = 'writable'`,
  )) {
    use(row.parent, row.name);
  }
  const digest = key === undefined ? undefined : digestOfKey(db, key);
  const asked =
    digest === undefined
      ? [...layers.values()]
      : climb(
          layers,
          db.first<{ layer: number | null }>('SELECT layer FROM images WHERE digest = ?', digest)?.layer ?? null,
        );
  return asked.flatMap((row) => {
    if (row.diffId === undefined || row.chainId === undefined || row.exact === undefined) return [];
    const below = row.parentRow === null ? undefined : layers.get(row.parentRow)?.chainId;
    return {
      diffId: row.diffId,
      chainId: row.chainId,
      ...(below === undefined ? {} : { parentChainId: below }),
      sizeBytes: row.sizeBytes,
      tarBytes: row.tarBytes,
      exact: row.exact,
      usedBy: [...(users.get(row) ?? [])].sort(),
    };
  });
}
