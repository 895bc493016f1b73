import type { ByteString } from '../base/bytes.ts';
import { isStorageError } from '../base/errors.ts';
import { Connection, makeDatabase } from './connection.ts';
import * as images from './database-images.ts';
import * as layers from './database-layers.ts';
import * as upkeep from './database-upkeep.ts';
import { canonical, examineRoot, type Layout, layoutOf, makeRoot, refusal, settleRoot, unmakeRoot } from './layout.ts';
import { freeReserve, takeReserve } from './reserve.ts';
import type { Opened, Requests } from './rows.ts';

// What can be asked of a store's database. It runs in a thread of its own, or in the asker's (`database.ts`), and loads
// no FFI library.

/** One store: what `open` found, and then its database. */
export function answering(): Requests {
  let root = '' as ByteString;
  let rootIsNew = false;
  let lockMs = 0;
  let open: Connection | undefined;

  const connect = (): Opened => {
    const layout = layoutOf(canonical(root));
    try {
      return connectTo(layout);
    } catch (error) {
      if (!isStorageError(error, 'resource-exhausted') || !freeReserve(layout)) throw error;
      return connectTo(layout);
    }
  };
  const connectTo = (layout: Layout): Opened => {
    const db = Connection.open(layout, lockMs);
    try {
      settleRoot(layout);
      const meta = new Map(
        db.all<{ key: string; value: string }>('SELECT key, value FROM meta').map((row) => [row.key, row.value]),
      );
      const driver = meta.get('driver');
      const uuid = meta.get('uuid');
      if (driver === undefined || uuid === undefined) {
        throw refusal('corrupt', root, 'its database does not name a driver; restore store.db from a copy');
      }
      takeReserve(layout);
      open = db;
      return { root: layout.root, driver: driver as Opened['driver'], uuid };
    } catch (error) {
      db.close();
      throw error;
    }
  };
  const read = <T>(body: (db: Connection) => T): T => connection().read(() => body(connection()));
  const write = <T>(body: (db: Connection) => T): T => connection().write(() => body(connection()));
  const connection = (): Connection => {
    if (open === undefined) throw refusal('failed-precondition', root, 'it is closed');
    return open;
  };

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

    images: () => read(images.images),
    image: (key) => read((db) => images.image(db, key)),
    manifests: (image) => read((db) => images.manifests(db, image)),
    blobs: (digests) => read((db) => images.blobs(db, digests)),
    commit: (commit, maker) => write((db) => images.commit(db, commit, maker)),
    tag: (key, reference) => write((db) => images.tag(db, key, reference)),
    removeImages: (keys, force) => write((db) => images.removeImages(db, keys, force)),

    layer: (driverId) => read((db) => layers.layer(db, driverId)),
    imageLayers: (key) => read((db) => images.imageLayers(db, key)),
    layersByChain: (chainIds) => read((db) => layers.layersByChain(db, chainIds)),
    chainsFrom: (prefix) => read((db) => layers.chainsFrom(db, prefix)),
    storedLayers: (key) => read((db) => images.storedLayers(db, key)),
    pin: (pin, chainIds) => write((db) => layers.pin(db, pin, chainIds)),
    unpin: (pin) => write((db) => layers.unpin(db, pin)),
    createWritable: (writable) => write((db) => layers.createWritable(db, writable)),
    writable: (text) => read((db) => layers.writable(db, text)),
    writables: () => read(layers.writables),
    removeWritable: (driverId, maker) => write((db) => layers.removeWritable(db, driverId, maker)),

    begin: (makings, maker) => write((db) => layers.begin(db, makings, maker)),
    end: (makings) => write((db) => layers.end(db, makings)),
    sessions: () => read(upkeep.sessions),
    bury: (dead) => write((db) => upkeep.bury(db, dead)),
    stale: () => read(upkeep.stale),
    unreachable: () => read(upkeep.unreachable),
    layers: () => read(upkeep.layers),
    known: (driverIds) => read((db) => upkeep.known(db, driverIds)),
    removeLayers: (driverIds, maker) => write((db) => upkeep.removeLayers(db, driverIds, maker)),
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
