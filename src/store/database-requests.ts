import type { ByteString } from '../base/bytes.ts';
import { isStorageError } from '../base/errors.ts';
import { Connection, makeDatabase } from './connection.ts';
import * as images from './database-images.ts';
import * as layers from './database-layers.ts';
import * as upkeep from './database-upkeep.ts';
import { canonical, examineRoot, layoutOf, makeRoot, refusal, settleRoot, unmakeRoot } from './layout.ts';
import { Room } from './room.ts';
import type { Opened, Requests } from './rows.ts';

// What can be asked of a store's database. It runs in a thread of its own, or in the asker's (`database.ts`), and loads
// no FFI library.

/** One store: what `open` found, and then its database. */
export function answering(): Requests {
  let root = '' as ByteString;
  let rootIsNew = false;
  let lockMs = 0;
  let open: Room | undefined;

  const connect = (): Opened => {
    const layout = layoutOf(canonical(root));
    let found: Opened | undefined;
    open = Room.open(layout, lockMs, () => {
      const db = Connection.open(layout, lockMs);
      try {
        settleRoot(layout);
        found = whatIs(db);
        return db;
      } catch (error) {
        db.close();
        throw error;
      }
    });
    return found!;
  };
  const whatIs = (db: Connection): Opened => {
    const meta = new Map(
      db.all<{ key: string; value: string }>('SELECT key, value FROM meta').map((row) => [row.key, row.value]),
    );
    const driver = meta.get('driver');
    const uuid = meta.get('uuid');
    if (driver === undefined || uuid === undefined) {
      throw refusal('corrupt', root, 'its database does not name a driver; restore store.db from a copy');
    }
    return { root: db.layout.root, driver: driver as Opened['driver'], uuid };
  };
  const opened = (): Room => {
    if (open === undefined) throw refusal('failed-precondition', root, 'it is closed');
    return open;
  };
  const read = <T>(body: (db: Connection) => T): T => {
    const { db } = opened();
    return db.read(() => body(db));
  };
  const grow = <T>(body: (db: Connection) => T): T => opened().growing(body);
  const shrink = <T>(body: (db: Connection) => T): T => opened().removing(body);

  return {
    open(path, options) {
      root = path;
      lockMs = options.lockMs;
      const state = examineRoot(root);
      if (state === 'store') return connect();
      if (!options.create) throw refusal('not-found', root, 'there is no store');
      if (state === 'absent') rootIsNew = makeRoot(root);
      return undefined;
    },
    make(driver) {
      if (examineRoot(root) !== 'store') makeDatabase(layoutOf(canonical(root)), driver);
      return connect();
    },
    abandon() {
      if (rootIsNew && open === undefined) unmakeRoot(root);
    },
    close() {
      open?.close();
      open = undefined;
    },
    room(wanted) {
      if (wanted === 'to grow') opened().toGrow();
      else if (wanted === 'to remove') opened().toRemove();
      else opened().removed();
    },

    images: () => read(images.images),
    image: (key) => read((db) => images.image(db, key)),
    manifests: (image) => read((db) => images.manifests(db, image)),
    blobs: (digests) => read((db) => images.blobs(db, digests)),
    commit: (commit, maker) => grow((db) => images.commit(db, commit, maker)),
    tag: (key, reference) => grow((db) => images.tag(db, key, reference)),
    removeImages: (keys, force) => shrink((db) => images.removeImages(db, keys, force)),

    layer: (driverId) => read((db) => layers.layer(db, driverId)),
    layersBelow: (driverId) => read((db) => layers.layersBelow(db, driverId)),
    imageLayers: (key) => read((db) => images.imageLayers(db, key)),
    layersByChain: (chainIds) => read((db) => layers.layersByChain(db, chainIds)),
    chainsFrom: (prefix) => read((db) => layers.chainsFrom(db, prefix)),
    storedLayers: (key) => read((db) => images.storedLayers(db, key)),
    pin: (pin, chainIds, makings, maker) =>
      grow((db) => {
        layers.begin(db, makings, maker);
        return layers.pin(db, pin, chainIds);
      }),
    unpin: (pin) => shrink((db) => layers.unpin(db, pin)),
    createWritable: (writable) => grow((db) => layers.createWritable(db, writable)),
    writable: (text) => read((db) => layers.writable(db, text)),
    writables: () => read(layers.writables),
    removeWritable: (driverId, maker) => shrink((db) => layers.removeWritable(db, driverId, maker)),

    begin: (makings, maker) => grow((db) => layers.begin(db, makings, maker)),
    end: (makings) => shrink((db) => layers.end(db, makings)),
    sessions: () => read(upkeep.sessions),
    bury: (dead) => shrink((db) => upkeep.bury(db, dead)),
    stale: () => read(upkeep.stale),
    unreachable: () => read(upkeep.unreachable),
    layers: () => read(upkeep.layers),
    known: (driverIds) => read((db) => upkeep.known(db, driverIds)),
    removeLayers: (driverIds, maker) => shrink((db) => upkeep.removeLayers(db, driverIds, maker)),
    counts: () => read(upkeep.counts),
    check() {
      try {
        return read(upkeep.check);
      } catch (error) {
        // Too damaged to be read through: that is the finding.
        if (!isStorageError(error, 'corrupt')) throw error;
        return [{ where: 'store.db', what: error.actual ?? error.message, remedy: upkeep.REMEDY }];
      }
    },
  };
}
