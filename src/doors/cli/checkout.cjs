'use strict';

// The one file of a checkout that Node reads as it is: plain JavaScript, because loading the type stripper costs 40 ms
// in every thread, and no module, because the first one brings a loader with it. It runs the command line from a copy of `src` in few files and without types, made at the first start
// after a change; where none can be made, from `src` itself. A published package brings that copy.

// To import node:fs would load all that it could give (6 ms).
const {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} = process.getBuiltinModule('node:fs');
const { dirname, join } = process.getBuiltinModule('node:path');

const ROOT = join(__dirname, '../../..');
const SOURCE = join(ROOT, 'src');
/** Inside node_modules: whoever can write there can change what we run in any case. */
const COPIES = join(ROOT, 'node_modules', '.cache', 'layerstore');
const JOINED = 'dist/doors/cli/joined';
const START = `${JOINED}/start.cjs`;
const THREADS = ['jobs/thread.js', 'jobs/control.js', 'database-thread.js'];
const FILES = ['package.json', START, ...['main.cjs', ...THREADS].map((file) => `${JOINED}/${file}`)];
/** Of a copy: the sizes of its files. */
const SIZES = 'sizes.json';
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** Every source file, by its path below `src`. */
function sources(directory = '') {
  const found = [];
  for (const entry of readdirSync(`${SOURCE}/${directory}`, { withFileTypes: true })) {
    const path = `${directory}${entry.name}`;
    if (entry.isDirectory()) found.push(...sources(`${path}/`));
    else if (path.endsWith('.ts')) found.push(path);
  }
  return found;
}

/** Tells one state of the source from another (FNV-1a, twice): node:crypto alone takes 5 ms to load. */
class State {
  #a = 0x811c9dc5;
  #b = 0x01000193;

  add(text) {
    for (let i = 0; i < text.length; i++) {
      this.#a = Math.imul(this.#a ^ text.charCodeAt(i), 0x01000193);
      this.#b = Math.imul(this.#b ^ text.charCodeAt(i), 0x85ebca6b) ^ (this.#b >>> 13);
    }
  }

  get name() {
    return [this.#a, this.#b].map((half) => (half >>> 0).toString(16).padStart(8, '0')).join('');
  }
}

/** Where the copy of the source as it is now belongs; undefined where there can be none. */
function placeOfCopy() {
  if (!existsSync(dirname(dirname(COPIES)))) return undefined;
  const state = new State();
  state.add(process.version);
  for (const file of ['../package.json', '../tools/bundle.mjs', ...sources()]) {
    const { mtimeMs, size } = statSync(`${SOURCE}/${file}`);
    state.add(`${file} ${mtimeMs} ${size}`);
  }
  return join(COPIES, state.name);
}

/** Makes that copy; false where it is not possible. */
async function makeCopy(copy) {
  let draft;
  const umask = process.umask(0o022); // whoever may read the source may read the copy
  try {
    mkdirSync(COPIES, { recursive: true });
    dropOldCopies();
    const { bundle } = await import('../../../tools/bundle.mjs');
    draft = mkdtempSync(join(COPIES, 'draft-'));
    await bundle(draft);
    copyFileSync(join(ROOT, 'package.json'), join(draft, 'package.json'));
    writeFileSync(join(draft, SIZES), JSON.stringify(FILES.map((file) => [file, sizeOf(join(draft, file))])));
    chmodSync(draft, 0o755);
    syncFiles(draft); // a crash would leave empty ones under their name
    if (!isWhole(copy)) rmSync(copy, { recursive: true, force: true });
    renameSync(draft, copy);
    return true;
  } catch {
    if (draft !== undefined) rmSync(draft, { recursive: true, force: true });
    return isWhole(copy); // somebody else was faster, it is not ours to write to, or has no esbuild
  } finally {
    process.umask(umask);
  }
}

/** Each file that it needs is there in its full length: one that is cut off may do nothing at all, and say it was well. */
function isWhole(copy) {
  try {
    const sizes = JSON.parse(readFileSync(join(copy, SIZES), 'utf8'));
    return sizes.length === FILES.length && sizes.every(([file, size]) => size > 0 && sizeOf(join(copy, file)) === size);
  } catch {
    return false; // absent, or damaged itself
  }
}

function sizeOf(path) {
  return statSync(path, { throwIfNoEntry: false })?.size;
}

/** A copy that is used stays, see `dropOldCopies`. */
function touch(copy) {
  try {
    if (Date.now() - statSync(copy).mtimeMs > HOUR_MS) utimesSync(copy, new Date(), new Date());
  } catch {
    // it is not ours to write to
  }
}

function syncFiles(directory) {
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const fd = openSync(join(entry.parentPath, entry.name), 'r');
    fsyncSync(fd);
    closeSync(fd);
  }
}

/** Programs that run load files late: a copy that was made or begun with today stays. */
function dropOldCopies() {
  for (const name of readdirSync(COPIES)) {
    const path = join(COPIES, name);
    if (Date.now() - statSync(path).mtimeMs > DAY_MS) rmSync(path, { recursive: true, force: true });
  }
}

const copy = placeOfCopy();
const start = () => require(join(copy, START));
const startSource = () => import('./start.ts');
if (copy === undefined) startSource();
else if (isWhole(copy)) {
  touch(copy);
  start();
} else makeCopy(copy).then((isMade) => (isMade ? start() : startSource()));
