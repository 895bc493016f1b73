import { type Digest, hexOf } from '../base/digest.ts';
import { StorageError } from '../base/errors.ts';
import type { LayerId } from '../base/values.ts';
import type { Connection } from './connection.ts';
import { shownPath } from './layout.ts';
import {
  type LayerRow,
  type Maker,
  type Making,
  makingsOf,
  type NewLayer,
  type NewWritable,
  type WritableRow,
} from './rows.ts';

// The database's answers about layers, pins, writable layers and what is being made. Each function is called inside a
// transaction.

/** Now, in ns since the epoch, cut to ms: never later than the truth. */
export function now(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

// ns do not fit a double, so they travel as text.
const LAYER = `l.id, l.driver_id, l.kind, p.driver_id AS parent, l.overlay_mode, l.diff_id, l.chain_id, l.record_file,
  l.kept_file, l.exactness, l.because, l.size_bytes, l.tar_bytes, l.inodes, CAST(l.created_ns AS TEXT) AS created_ns`;
const LAYERS = 'layers l LEFT JOIN layers p ON p.id = l.parent';

interface LayerColumns {
  readonly id: number;
  readonly driver_id: LayerId;
  readonly kind: LayerRow['kind'];
  readonly parent: LayerId | null;
  readonly overlay_mode: string;
  readonly diff_id: Digest | null;
  readonly chain_id: Digest | null;
  readonly record_file: string | null;
  readonly kept_file: string | null;
  readonly exactness: 'replay' | 'kept' | null;
  readonly because: string | null;
  readonly size_bytes: number;
  readonly tar_bytes: number;
  readonly inodes: number;
  readonly created_ns: string;
}

function toLayer(c: LayerColumns): LayerRow {
  return {
    driverId: c.driver_id,
    kind: c.kind,
    ...(c.parent === null ? {} : { parent: c.parent }),
    overlayMode: JSON.parse(c.overlay_mode) as LayerRow['overlayMode'],
    ...(c.diff_id === null ? {} : { diffId: c.diff_id }),
    ...(c.chain_id === null ? {} : { chainId: c.chain_id }),
    ...(c.record_file === null ? {} : { recordFile: c.record_file }),
    ...(c.kept_file === null ? {} : { keptFile: c.kept_file }),
    ...(c.exactness === null ? {} : { exact: { holds: c.exactness === 'replay', because: c.because ?? '' } }),
    sizeBytes: c.size_bytes,
    tarBytes: c.tar_bytes,
    inodes: c.inodes,
    createdNs: BigInt(c.created_ns),
  };
}

export function layer(db: Connection, driverId: string): LayerRow | undefined {
  const found = db.first<LayerColumns>(`SELECT ${LAYER} FROM ${LAYERS} WHERE l.driver_id = ?`, driverId);
  return found === undefined ? undefined : toLayer(found);
}

/** The layer and all below it, bottom first. */
export function chainRows(db: Connection, top: number): LayerRow[] {
  return db
    .all<LayerColumns>(
      `WITH RECURSIVE chain (id, depth) AS (
         SELECT ?, 0 UNION ALL
         SELECT u.parent, depth + 1 FROM chain JOIN layers u ON u.id = chain.id WHERE u.parent < u.id)
       SELECT ${LAYER} FROM chain JOIN ${LAYERS} WHERE l.id = chain.id ORDER BY depth DESC`,
      top,
    )
    .map(toLayer);
}

/** What the layer lies on, bottom first. */
export function layersBelow(db: Connection, driverId: string): LayerRow[] {
  const found = db.first<{ parent: number | null }>('SELECT parent FROM layers WHERE driver_id = ?', driverId);
  return found?.parent == null ? [] : chainRows(db, found.parent);
}

/** Row of the oldest layer of that chain id. */
export function rowOfChain(db: Connection, chainId: Digest): number | undefined {
  return (
    db.first<{ id: number | null }>('SELECT min(id) AS id FROM layers WHERE chain_id = ?', chainId)?.id ?? undefined
  );
}

/** The oldest layer of each chain id that is there, in the order asked. */
export function layersByChain(db: Connection, chainIds: readonly Digest[]): LayerRow[] {
  return chainIds.flatMap((chainId) => {
    const id = rowOfChain(db, chainId);
    return id === undefined
      ? []
      : db.all<LayerColumns>(`SELECT ${LAYER} FROM ${LAYERS} WHERE l.id = ?`, id).map(toLayer);
  });
}

/** The chain ids that begin with `prefix` (`sha256:…`), a few of them. */
export function chainsFrom(db: Connection, prefix: string): Digest[] {
  const found = db.all<{ chain_id: Digest }>(
    'SELECT DISTINCT chain_id FROM layers WHERE chain_id >= ? AND chain_id < ? ORDER BY 1 LIMIT 6',
    prefix,
    `${prefix}g`,
  );
  return found.map((row) => row.chain_id);
}

/** All committed layers, parents before children, with their row ids. */
export function committedRows(db: Connection): ReadonlyMap<number, LayerRow & { readonly parentRow: number | null }> {
  const found = db.all<LayerColumns & { readonly parent_row: number | null }>(
    `SELECT ${LAYER}, l.parent AS parent_row FROM ${LAYERS} WHERE l.kind = 'committed' ORDER BY l.id`,
  );
  return new Map(found.map((c) => [c.id, { ...toLayer(c), parentRow: c.parent_row }]));
}

/**
 * Registers layers, bottom first; answers the driver ids that are not needed because the chain is there already. One
 * that another new layer lies on is needed whatever else is there.
 */
export function insertLayers(db: Connection, layers: readonly NewLayer[], maker: Maker): LayerId[] {
  const carrying = new Set<LayerId>();
  const needed: NewLayer[] = [];
  const lost: LayerId[] = [];
  for (const one of layers.toReversed()) {
    if (!carrying.has(one.driverId) && rowOfChain(db, one.chainId) !== undefined) {
      lost.push(one.driverId);
      continue;
    }
    if (one.parent !== undefined) carrying.add(one.parent);
    needed.push(one);
  }
  for (const one of needed.toReversed()) {
    const made = makingsOf(one);
    if (take(db, made, maker) !== made.length) {
      throw new StorageError(
        'internal',
        `Cannot register layer ${shownPath(one.driverId)}: it or its files were not announced by this store handle, or were given up; begin them before they are made`,
        { layer: one.driverId },
      );
    }
    db.run(
      `INSERT INTO layers (driver_id, kind, parent, overlay_mode, diff_id, chain_id, record_file, kept_file, exactness,
         because, size_bytes, tar_bytes, inodes, created_ns) VALUES (?, 'committed', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      one.driverId,
      one.parent === undefined ? null : rowOfDriverId(db, one.parent),
      JSON.stringify(one.overlayMode ?? {}),
      one.diffId,
      one.chainId,
      one.recordFile ?? null,
      one.keptFile ?? null,
      one.exact.holds ? 'replay' : 'kept',
      one.exact.because,
      one.sizeBytes,
      one.tarBytes,
      one.inodes,
      now(),
    );
  }
  return lost;
}

function rowOfDriverId(db: Connection, driverId: LayerId): number {
  const found = db.first<{ id: number }>('SELECT id FROM layers WHERE driver_id = ?', driverId);
  if (found !== undefined) return found.id;
  throw new StorageError('not-found', `Cannot find layer ${shownPath(driverId)}: the store has none of that id`, {
    layer: driverId,
  });
}

/** Keeps what is there of `chainIds` from removal, under `pin` (`SESSION/…`), and answers it. */
export function pin(db: Connection, name: string, chainIds: readonly Digest[]): LayerRow[] {
  for (const chainId of chainIds) {
    const id = rowOfChain(db, chainId);
    if (id === undefined) continue;
    db.run(
      `INSERT OR IGNORE INTO names (space, name, layer, created_ns) VALUES ('pin', ?, ?, ?)`,
      `${name}/${hexOf(chainId)}`,
      id,
      now(),
    );
  }
  return layersByChain(db, chainIds);
}

export function unpin(db: Connection, name: string): void {
  // `0` comes after `/`: everything below the name.
  db.run(`DELETE FROM names WHERE space = 'pin' AND name > ? || '/' AND name < ? || '0'`, name, name);
}

interface WritableColumns {
  readonly driver_id: LayerId;
  readonly name: string;
  readonly image: Digest | null;
  readonly chain_id: Digest | null;
  readonly parent: LayerId | null;
  readonly overlay_mode: string;
  readonly extra: string;
  readonly created_ns: string;
}

const WRITABLE = `SELECT l.driver_id, n.name, n.image, p.chain_id, p.driver_id AS parent, l.overlay_mode, n.extra,
  CAST(n.created_ns AS TEXT) AS created_ns FROM names n JOIN ${LAYERS} WHERE n.space = 'writable' AND l.id = n.layer`;

function toWritable(c: WritableColumns): WritableRow {
  const { settings } = JSON.parse(c.extra) as { settings?: Readonly<Record<string, string>> };
  return {
    driverId: c.driver_id,
    name: c.name,
    ...(c.image === null ? {} : { image: c.image }),
    ...(c.chain_id === null ? {} : { chainId: c.chain_id }),
    ...(c.parent === null ? {} : { parent: c.parent }),
    overlayMode: JSON.parse(c.overlay_mode) as WritableRow['overlayMode'],
    settings: settings ?? {},
    createdNs: BigInt(c.created_ns),
  };
}

/** A writable layer's row. A name that is taken is `already-exists`, a base that is not there `not-found`. */
export function createWritable(db: Connection, writable: NewWritable): WritableRow {
  const { name, driverId, base } = writable;
  if (db.first(`SELECT 1 FROM names WHERE space = 'writable' AND name = ?`, name) !== undefined) {
    throw new StorageError(
      'already-exists',
      `Cannot make the writable layer ${shownPath(name)}: there is one of that name; choose another or remove it first`,
    );
  }
  const created = writable.createdNs ?? now();
  const id = db.insert(
    `INSERT INTO layers (driver_id, kind, parent, overlay_mode, created_ns) VALUES (?, 'active', ?, ?, ?)`,
    driverId,
    base === undefined ? null : baseRow(db, base, name),
    JSON.stringify(writable.overlayMode ?? {}),
    created,
  );
  db.run(
    `INSERT INTO names (space, name, layer, image, extra, created_ns) VALUES ('writable', ?, ?, ?, ?, ?)`,
    name,
    id,
    base !== undefined && 'image' in base ? base.image : null,
    JSON.stringify(writable.settings === undefined ? {} : { settings: writable.settings }),
    created,
  );
  db.run(`DELETE FROM makers WHERE kind = 'layer' AND name = ?`, driverId);
  return writableNamed(db, name)!;
}

function baseRow(db: Connection, base: NonNullable<NewWritable['base']>, name: string): number | null {
  if ('image' in base) {
    const image = db.first<{ layer: number | null }>('SELECT layer FROM images WHERE digest = ?', base.image);
    if (image !== undefined) return image.layer;
  } else {
    const id = rowOfChain(db, base.chainId);
    if (id !== undefined) return id;
  }
  const what = 'image' in base ? `image ${base.image}` : `chain ${base.chainId}`;
  throw new StorageError('not-found', `Cannot make the writable layer ${shownPath(name)}: the store has no ${what}`);
}

function writableNamed(db: Connection, name: string): WritableRow | undefined {
  const found = db.first<WritableColumns>(`${WRITABLE} AND n.name = ?`, name);
  return found === undefined ? undefined : toWritable(found);
}

/** By name, else by the beginning of an id that begins no other. */
export function writable(db: Connection, text: string): WritableRow {
  const named = writableNamed(db, text);
  if (named !== undefined) return named;
  const found =
    text === ''
      ? []
      : db.all<WritableColumns>(
          `${WRITABLE} AND l.driver_id >= ? AND l.driver_id < ? ORDER BY 1`,
          text,
          `${text}\u{10ffff}`,
        );
  if (found.length === 1) return toWritable(found[0]!);
  if (found.length === 0) {
    throw new StorageError(
      'not-found',
      `Cannot find the writable layer ${shownPath(text)}: the store has none of that name or id`,
    );
  }
  throw new StorageError(
    'invalid-argument',
    `Cannot tell which writable layer ${shownPath(text)} is: ${candidates(found.map((c) => `${c.driver_id} (${shownPath(c.name)})`))} begin so; give more of the id`,
  );
}

/** The first few, for an error message. */
export function candidates(all: readonly string[]): string {
  return all.slice(0, 5).join(', ') + (all.length > 5 ? ` and ${all.length - 5} more` : '');
}

/** Sorted by name. */
export function writables(db: Connection): WritableRow[] {
  return db.all<WritableColumns>(`${WRITABLE} ORDER BY n.name`).map(toWritable);
}

/** Takes name and row away; the directory is `maker`'s to remove. */
export function removeWritable(db: Connection, driverId: string, maker: Maker): void {
  const found = db.first<{ id: number }>(`SELECT id FROM layers WHERE driver_id = ? AND kind = 'active'`, driverId);
  if (found === undefined) {
    throw new StorageError('not-found', `Cannot remove the writable layer ${shownPath(driverId)}: it is gone`, {
      layer: driverId,
    });
  }
  db.run('DELETE FROM names WHERE layer = ?', found.id);
  db.run('DELETE FROM layers WHERE id = ?', found.id);
  begin(db, [{ kind: 'layer', name: driverId }], maker);
}

/** Announces what will be on disk without being a layer's. */
export function begin(db: Connection, makings: readonly Making[], maker: Maker): void {
  for (const { kind, name } of makings) {
    if (kind === 'layer' && db.first('SELECT 1 FROM layers WHERE driver_id = ?', name) !== undefined) {
      throw new StorageError('already-exists', `Cannot make layer ${shownPath(name)}: there is one of that id`, {
        layer: name,
      });
    }
    const added = db.run(
      'INSERT OR IGNORE INTO makers (kind, name, session, pid, created_ns) VALUES (?, ?, ?, ?, ?)',
      kind,
      name,
      maker.session,
      maker.pid,
      now(),
    );
    if (added === 0) {
      throw new StorageError(
        'already-exists',
        `Cannot make ${kind} ${shownPath(name)}: it is being made or removed already`,
      );
    }
  }
}

/** The announcement is over: the thing is a layer's, or gone. */
export function end(db: Connection, makings: readonly Making[]): void {
  for (const { kind, name } of makings) db.run('DELETE FROM makers WHERE kind = ? AND name = ?', kind, name);
}

/** As `end`, of this maker's own only; answers how many there were. */
function take(db: Connection, makings: readonly Making[], maker: Maker): number {
  let taken = 0;
  for (const { kind, name } of makings) {
    taken += db.run('DELETE FROM makers WHERE kind = ? AND name = ? AND session = ?', kind, name, maker.session);
  }
  return taken;
}
