import {
  FLAG,
  FUNCTION,
  is,
  type Kind,
  listOf,
  maybe,
  NUMBER,
  options,
  PATH,
  record,
  SIGNAL,
  type Signature,
  type Signatures,
  SOURCE,
  TEXT,
  word,
} from '../base/kinds.ts';
import type { Images, Layers, Upkeep, WritableLayer } from './types.ts';

// What the methods of a store take. Types only; what a value means is looked at where it is used.

const IMAGE: Kind = is('an image or its name', (value) => {
  return typeof value === 'string' || (typeof value === 'object' && typeof Reflect.get(value ?? {}, 'id') === 'string');
});
const ABORTABLE = { signal: SIGNAL };
const PROGRESSING = { ...ABORTABLE, onProgress: FUNCTION };
const COMPRESS = word('none', 'gzip', 'zstd');
const SAVE = options({
  ...PROGRESSING,
  lend: FLAG,
  format: word('oci', 'docker'),
  epochSeconds: NUMBER,
  compress: COMPRESS,
});
const FORCE = options({ force: FLAG });
const HOLD = options({ ...ABORTABLE, hold: FLAG });
const NAME: Signature[number] = ['name', TEXT];

export const STORE_OPTIONS: Kind = record({
  root: PATH,
  driver: maybe(TEXT),
  driverOptions: maybe(listOf(TEXT)),
  log: maybe(record({ debug: FUNCTION, info: FUNCTION, warn: FUNCTION })),
  threads: maybe(NUMBER),
  create: maybe(FLAG),
  leftAside: maybe(FUNCTION),
  brief: maybe(FLAG),
  patience: options({ ms: NUMBER, signal: SIGNAL }),
  ahead: options({ jobs: NUMBER, mounts: FLAG, here: FLAG }),
  signal: maybe(SIGNAL),
});

export const IMAGES: Signatures<Images> = {
  rejects: {
    load: [
      ['source', SOURCE],
      [
        'options',
        options({ ...PROGRESSING, platform: TEXT, limits: options({ freeBytes: NUMBER, ratioMax: NUMBER }) }),
      ],
    ],
    saveTo: [
      ['images', listOf(IMAGE)],
      ['fd', NUMBER],
      ['options', SAVE],
    ],
    saveDirectory: [
      ['images', listOf(IMAGE)],
      ['directory', TEXT],
      ['options', SAVE],
    ],
    get: [NAME],
    tag: [
      ['image', IMAGE],
      ['reference', TEXT],
    ],
    remove: [NAME, ['options', FORCE]],
    removeAll: [
      ['names', listOf(TEXT)],
      ['options', FORCE],
    ],
    history: [['image', IMAGE]],
  },
  throws: {
    save: [
      ['images', listOf(IMAGE)],
      ['options', SAVE],
    ],
    export: [NAME, ['options', options({ ...PROGRESSING, lend: FLAG, onNote: FUNCTION })]],
  },
};

export const LAYERS: Signatures<Layers> = {
  rejects: {
    create: [
      ['base', maybe(IMAGE)],
      ['options', options({ ...ABORTABLE, name: TEXT, settings: record({}) })],
    ],
    get: [NAME],
    remove: [NAME, ['options', FORCE]],
    stored: [['image', maybe(IMAGE)]],
    view: [
      ['image', IMAGE],
      ['options', HOLD],
    ],
    releaseAt: [['path', TEXT]],
    releaseView: [['image', IMAGE]],
  },
};

export const LAYER: Signatures<WritableLayer> = {
  rejects: {
    explain: [['options', options({ renames: word('collapse') })]],
    mount: [['options', HOLD]],
    commit: [
      ['reference', maybe(TEXT)],
      ['options', options({ ...PROGRESSING, message: TEXT, author: TEXT, changes: listOf(TEXT), createdAt: TEXT })],
    ],
    remove: [['options', FORCE]],
  },
  throws: {
    changes: [['options', options({ ...ABORTABLE, rendering: word('docker', 'core'), renames: word('collapse') })]],
    diff: [
      [
        'options',
        options({ ...PROGRESSING, lend: FLAG, onNote: FUNCTION, xattrs: word('all', 'docker'), compress: COMPRESS }),
      ],
    ],
  },
};

export const UPKEEP: Signatures<Upkeep> = {
  rejects: {
    gc: [['options', options({ ...ABORTABLE, dryRun: FLAG, wait: FLAG })]],
    sweep: [['options', options({ ...ABORTABLE, wait: FLAG })]],
    check: [['options', options({ ...PROGRESSING, deep: FLAG })]],
  },
};
