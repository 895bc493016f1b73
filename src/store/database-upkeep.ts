import { digestOf } from '../base/digest.ts';
import type { Connection } from './connection.ts';
import { begin, layer } from './database-layers.ts';
import { shownPath } from './layout.ts';
import { type LayerRow, type Maker, type Making, makingsOf } from './rows.ts';
import type { Fault } from './types.ts';

// What no name reaches, what died half made, and whether the database is sound. Each function is called inside a
// transaction.

/** Sessions that make something or hold a pin; whether they live is for `makers.ts` to find out. */
export function sessions(db: Connection): string[] {
  return db
    .all<{ session: string }>(
      `SELECT DISTINCT session FROM makers WHERE session <> ''
       UNION SELECT substr(name, 1, instr(name, '/') - 1) FROM names WHERE space = 'pin'`,
    )
    .map((row) => row.session);
}

/** Makes what dead sessions were making anybody's to remove, and drops their pins. */
export function bury(db: Connection, dead: readonly string[]): void {
  for (const session of dead) {
    db.run(`UPDATE makers SET session = '' WHERE session = ?`, session);
    db.run(`DELETE FROM names WHERE space = 'pin' AND name > ? || '/' AND name < ? || '0'`, session, session);
  }
}

/** What buried sessions left. */
export function stale(db: Connection): Making[] {
  return db.all<Making>(`SELECT kind, name FROM makers WHERE session = '' ORDER BY kind, name`);
}

/** Layers that no name and no image reaches, children first. */
export function unreachable(db: Connection): LayerRow[] {
  const found = db.all<{ driver_id: string }>(
    `WITH RECURSIVE reached (id) AS (
       SELECT layer FROM names
       UNION SELECT layer FROM images WHERE layer IS NOT NULL
       UNION SELECT l.parent FROM reached JOIN layers l ON l.id = reached.id WHERE l.parent IS NOT NULL)
     SELECT driver_id FROM layers WHERE id NOT IN (SELECT id FROM reached) ORDER BY id DESC`,
  );
  return found.map((row) => layer(db, row.driver_id)!);
}

/**
 * Takes the rows of those of `driverIds` (children first) away that nothing refers to, now, and gives them and their
 * files to `maker` to remove from disk. Answers these.
 */
export function removeLayers(db: Connection, driverIds: readonly string[], maker: Maker): LayerRow[] {
  const removed: LayerRow[] = [];
  for (const driverId of driverIds) {
    const row = layer(db, driverId);
    if (row === undefined) continue; // somebody else was faster
    const gone = db.run(
      `DELETE FROM layers WHERE driver_id = ? AND NOT EXISTS (SELECT 1 FROM names WHERE layer = layers.id)
         AND NOT EXISTS (SELECT 1 FROM images WHERE layer = layers.id)
         AND NOT EXISTS (SELECT 1 FROM layers c WHERE c.parent = layers.id)`,
      driverId,
    );
    if (gone === 0) continue;
    begin(db, makingsOf(row), maker);
    if (row.diffId !== undefined) {
      db.run(
        'DELETE FROM blobs WHERE diff_id = ? AND NOT EXISTS (SELECT 1 FROM layers WHERE diff_id = ?)',
        row.diffId,
        row.diffId,
      );
    }
    removed.push(row);
  }
  return removed;
}

/** Every layer, parents first. */
export function layers(db: Connection): LayerRow[] {
  return db
    .all<{ driver_id: string }>('SELECT driver_id FROM layers ORDER BY id')
    .map((row) => layer(db, row.driver_id)!);
}

/** Those of `driverIds` that are layers or are being made or removed. */
export function known(db: Connection, driverIds: readonly string[]): string[] {
  return driverIds.filter(
    (id) =>
      layer(db, id) !== undefined ||
      db.first(`SELECT 1 AS one FROM makers WHERE kind = 'layer' AND name = ?`, id) !== undefined,
  );
}

export function counts(db: Connection): { images: number; layers: number; writable: number } {
  return db.first<{ images: number; layers: number; writable: number }>(
    `SELECT (SELECT count(*) FROM images) AS images,
            (SELECT count(*) FROM layers WHERE kind = 'committed') AS layers,
            (SELECT count(*) FROM names WHERE space = 'writable') AS writable`,
  )!;
}

/** For a damaged database. */
export const REMEDY = 'restore store.db from a copy, or move the store away and load its images again';

/** Faults inside the database: SQLite's own checks, then what the schema cannot say. */
export function check(db: Connection): Fault[] {
  const faults: Fault[] = [];
  const fault = (where: string, what: string, remedy: string = REMEDY): void =>
    void faults.push({ where, what, remedy });
  for (const { integrity_check } of db.all<{ integrity_check: string }>('PRAGMA integrity_check(20)')) {
    if (integrity_check !== 'ok') fault('store.db', integrity_check);
  }
  if (faults.length > 0) return faults; // what a damaged file says further is not worth reading
  for (const { table, parent } of db.all<{ table: string; parent: string }>('PRAGMA foreign_key_check')) {
    fault('store.db', `a row of "${table}" refers to a row of "${parent}" that is not there`);
  }
  for (const row of db.all<{
    driver_id: string;
    diff_id: string;
    chain_id: string;
    below: string | null;
    parent: number | null;
  }>(
    `SELECT l.driver_id, l.diff_id, l.chain_id, l.parent, p.chain_id AS below
     FROM layers l LEFT JOIN layers p ON p.id = l.parent WHERE l.chain_id IS NOT NULL`,
  )) {
    const expected = row.parent === null ? row.diff_id : digestOf(`${row.below} ${row.diff_id}`);
    if (row.chain_id !== expected) {
      fault(`layer ${shownPath(row.driver_id)}`, `its chain id is ${row.chain_id}, its layers give ${expected}`);
    }
  }
  for (const row of db.all<{ digest: string; config: Uint8Array }>('SELECT digest, config FROM images')) {
    if (digestOf(row.config) !== row.digest) {
      fault(
        `image ${row.digest}`,
        `its config has the digest ${digestOf(row.config)}`,
        'remove the image and load it again',
      );
    }
  }
  for (const row of db.all<{ digest: string; image: string; bytes: Uint8Array }>(
    'SELECT digest, image, bytes FROM manifests',
  )) {
    if (digestOf(row.bytes) !== row.digest) {
      fault(
        `manifest ${row.digest}`,
        `its bytes have the digest ${digestOf(row.bytes)}`,
        `remove image ${row.image} and load it again`,
      );
    }
  }
  for (const row of db.all<{ driver_id: string }>(
    `SELECT driver_id FROM layers WHERE kind <> 'committed' AND NOT EXISTS (SELECT 1 FROM names WHERE layer = layers.id)`,
  )) {
    fault(`layer ${shownPath(row.driver_id)}`, 'it is writable and has no name', 'gc removes it');
  }
  return faults;
}
