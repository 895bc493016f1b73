import type { DatabaseSync } from 'node:sqlite';
import { randomUUID } from '../base/crypto.ts';
import type { DriverName } from '../base/values.ts';

/** The format of a store, kept as SQLite's `user_version`: readable whatever else a later version changes. */
export const FORMAT = 1;

/** SQLite's `application_id` of a store's database: "lays". */
export const APPLICATION_ID = 0x6c617973;

/*
 * One stored thing, the layer; everything else is a name that points at one.
 *
 * - A layer's `id` is larger than its parent's (CHECK): no circles, and descending ids list children first.
 * - `diff_id` and `chain_id` are set only by us, from bytes that we hashed; a committed layer of a client that never
 *   showed us its tar has none. A chain id is not unique: a layer lies on its parent's *directory*, so when two
 *   processes unpack `A B` and `A C` at once, each keeps its own `A`. Lookups take the oldest.
 * - `blobs` knows digests of compressed blobs, `layers` digests of tars; no column holds both kinds.
 * - `names.space`: 'writable' (a writable layer, with the image it was made on), 'pin' ("SESSION/…": a running job needs
 *   it); to come: 'containerd/<instance>', 'docker/<home>', 'lease', 'workspace'. `extra` is JSON of that space.
 * - An image keeps its layers by `images.layer`, its top (NULL: it has none).
 * - `makers`: driver ids and files (relative to the root) that may be on disk and are no layer's: being made, or being
 *   removed, by the open database `session`. An empty session is dead: to be removed by whoever comes.
 * - Times are ns since the epoch; sizes bytes.
 */
const TABLES = `
CREATE TABLE meta (
  key TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE layers (
  id INTEGER PRIMARY KEY,
  driver_id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL CHECK (kind IN ('active', 'view', 'committed')),
  parent INTEGER REFERENCES layers (id) CHECK (parent < id),
  overlay_mode TEXT NOT NULL DEFAULT '{}',
  diff_id TEXT,
  chain_id TEXT,
  record_file TEXT,
  kept_file TEXT,
  exactness TEXT CHECK (exactness IN ('replay', 'kept')),
  because TEXT,
  size_bytes INTEGER NOT NULL DEFAULT 0,
  tar_bytes INTEGER NOT NULL DEFAULT 0,
  inodes INTEGER NOT NULL DEFAULT 0,
  created_ns INTEGER NOT NULL,
  CHECK ((diff_id IS NULL) = (chain_id IS NULL)),
  CHECK (chain_id IS NULL OR kind = 'committed'),
  CHECK ((exactness IS NULL) = (because IS NULL))
) STRICT;
CREATE INDEX layers_by_parent ON layers (parent) WHERE parent IS NOT NULL;
CREATE INDEX layers_by_chain ON layers (chain_id) WHERE chain_id IS NOT NULL;
CREATE INDEX layers_by_diff ON layers (diff_id) WHERE diff_id IS NOT NULL;

CREATE TABLE images (
  digest TEXT PRIMARY KEY,
  config BLOB NOT NULL,
  layer INTEGER REFERENCES layers (id),
  platform TEXT NOT NULL,
  created_at TEXT,
  created_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX images_by_layer ON images (layer) WHERE layer IS NOT NULL;

CREATE TABLE manifests (
  digest TEXT PRIMARY KEY,
  image TEXT NOT NULL REFERENCES images (digest) ON DELETE CASCADE,
  media_type TEXT NOT NULL,
  bytes BLOB NOT NULL
) STRICT;
CREATE INDEX manifests_by_image ON manifests (image);

CREATE TABLE refs (
  name TEXT PRIMARY KEY,
  image TEXT NOT NULL REFERENCES images (digest),
  created_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX refs_by_image ON refs (image);

CREATE TABLE blobs (
  digest TEXT PRIMARY KEY,
  diff_id TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  media_type TEXT NOT NULL
) STRICT;
CREATE INDEX blobs_by_diff ON blobs (diff_id);

CREATE TABLE names (
  space TEXT NOT NULL,
  name TEXT NOT NULL,
  layer INTEGER NOT NULL REFERENCES layers (id),
  image TEXT REFERENCES images (digest),
  extra TEXT NOT NULL DEFAULT '{}',
  created_ns INTEGER NOT NULL,
  PRIMARY KEY (space, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX names_by_layer ON names (layer);
CREATE INDEX names_by_image ON names (image) WHERE image IS NOT NULL;

CREATE TABLE makers (
  kind TEXT NOT NULL CHECK (kind IN ('layer', 'file')),
  name TEXT NOT NULL,
  session TEXT NOT NULL,
  pid INTEGER NOT NULL,
  created_ns INTEGER NOT NULL,
  PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX makers_by_session ON makers (session);
`;

/** Fills an empty database; the driver is fixed from here on. */
export function writeSchema(db: DatabaseSync, driver: DriverName): void {
  db.exec(`PRAGMA application_id = ${APPLICATION_ID}; PRAGMA user_version = ${FORMAT}; BEGIN; ${TABLES}`);
  const insert = db.prepare('INSERT INTO meta VALUES (?, ?)');
  insert.run('driver', driver);
  insert.run('uuid', randomUUID());
  insert.run('created', new Date().toISOString());
  db.exec('COMMIT');
}
