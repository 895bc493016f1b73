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
  STREAM,
  TEXT,
  word,
} from '../base/kinds.ts';
import type { StorageDriver } from './storage-driver.ts';

// What the methods of a bare driver take. Types only; whether an id is one is looked at where it is used.

const ABORTABLE = { signal: SIGNAL };
const WATCHED = { ...ABORTABLE, onBytes: FUNCTION };
const COMPRESS = { compress: word('none', 'gzip', 'zstd'), oneThread: FLAG };
const ID: Signature[number] = ['id', TEXT];
const PARENT: Signature[number] = ['parent', maybe(TEXT)];
const RANGE = record({ fd: NUMBER, offset: NUMBER, length: NUMBER });
const TAR: Kind = is('an async iterable of bytes or a range of a file', (value) => {
  return STREAM(value) === undefined || RANGE(value) === undefined;
});
const LIMITS = options({ freeBytes: NUMBER, ratioMax: NUMBER, inputSizeBytes: NUMBER });
const APPLY = options({ ...WATCHED, parent: TEXT, record: TEXT, limits: LIMITS, fresh: FLAG, oneThread: FLAG });
const FILL: Signature = [ID, ['tar', TAR], ['options', APPLY]];
const RECORD: Signature = [ID, ['record', TEXT], ['diffId', TEXT]];
const WATCH: Signature[number] = ['options', options(WATCHED)];

export const DRIVER_OPTIONS: Kind = record({
  root: PATH,
  driver: maybe(TEXT),
  options: maybe(listOf(TEXT)),
  log: maybe(record({ debug: FUNCTION, info: FUNCTION, warn: FUNCTION })),
  threads: maybe(NUMBER),
  run: maybe(PATH),
});

const MOUNTS = listOf(record({ type: TEXT, source: TEXT, options: listOf(TEXT) }));
/** Of the differ on mounts that others made. */
export const OVERLAY_DIFF: Signature = [
  ['lower', MOUNTS],
  ['upper', MOUNTS],
  [
    'options',
    options({
      ...ABORTABLE,
      walk: FLAG,
      here: FLAG,
      rendering: word('docker', 'core'),
      renames: word('collapse'),
      xattrs: word('all', 'docker'),
      onNote: FUNCTION,
    }),
  ],
];

export const DRIVER: Signatures<StorageDriver> = {
  rejects: {
    create: [
      ID,
      [
        'options',
        record({
          writable: FLAG,
          parent: maybe(TEXT),
          settings: maybe(record({})),
          signal: maybe(SIGNAL),
        }),
      ],
    ],
    remove: [ID],
    has: [ID],
    parent: [ID],
    metadata: [ID],
    content: [ID],
    files: [ID],
    seal: [
      ['ids', listOf(TEXT)],
      ['options', options(ABORTABLE)],
    ],
    mounts: [ID, ['options', options({ readonly: FLAG, label: TEXT })]],
    mount: [ID, ['options', options({ ...ABORTABLE, readonly: FLAG, label: TEXT, holdName: TEXT })]],
    release: [ID, ['holdName', TEXT], ['options', options({ detach: FLAG })]],
    isMounted: [ID],
    unpack: FILL,
    apply: FILL,
    transfer: [
      ['from', TEXT],
      ['to', TEXT],
      ['options', APPLY],
    ],
    diffSize: [ID, PARENT, ['options', options(ABORTABLE)]],
    replayTo: [
      ...RECORD,
      ['to', record({ fd: NUMBER, offset: NUMBER })],
      ['options', options({ ...WATCHED, ...COMPRESS })],
    ],
    verify: [...RECORD, WATCH],
    audit: [ID, ['record', TEXT], ['options', options(ABORTABLE)]],
    explain: [ID, PARENT, ['options', options({ renames: word('collapse') })]],
  },
  throws: {
    diff: [
      ID,
      PARENT,
      ['options', options({ ...WATCHED, ...COMPRESS, lend: FLAG, onNote: FUNCTION, xattrs: word('all', 'docker') })],
    ],
    changes: [
      ID,
      PARENT,
      ['options', options({ ...ABORTABLE, rendering: word('docker', 'core'), renames: word('collapse') })],
    ],
    replay: [...RECORD, ['options', options({ ...WATCHED, lend: FLAG })]],
  },
};
