// The one file of a checkout that Node reads as it is: plain JavaScript, because loading the type stripper costs 40 ms
// in every thread. It runs the command line from a copy of `src` in few files and without types, made at the first start
// after a change; where none can be made, from `src` itself. A published package brings that copy.
import { createHash } from 'node:crypto';
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const SOURCE = join(ROOT, 'src');
/** Inside node_modules: whoever can write there can change what we run in any case. */
const COPIES = join(ROOT, 'node_modules', '.cache', 'layerstore');
const START = 'dist/doors/cli/joined/start.js';
const DAY_MS = 86_400_000;

/** Every source file, by its path below `src`. */
function sources(directory = '') {
  return readdirSync(join(SOURCE, directory), { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) return sources(path);
    return path.endsWith('.ts') ? [path] : [];
  });
}

/** The copy of the source as it is now, made if need be; undefined where that is not possible. */
async function joinedCopy() {
  if (!existsSync(dirname(dirname(COPIES)))) return undefined;
  const state = createHash('sha256').update(process.version);
  for (const file of ['../package.json', '../tools/bundle.mjs', ...sources().sort()]) {
    const { mtimeMs, size } = statSync(join(SOURCE, file));
    state.update(`${file} ${mtimeMs} ${size}\n`);
  }
  const copy = join(COPIES, state.digest('hex').slice(0, 32));
  if (existsSync(copy)) return copy;
  let draft;
  try {
    mkdirSync(COPIES, { recursive: true });
    dropOldCopies();
    const { bundle } = await import('../../../tools/bundle.mjs');
    draft = mkdtempSync(join(COPIES, 'draft-'));
    await bundle(draft);
    copyFileSync(join(ROOT, 'package.json'), join(draft, 'package.json'));
    chmodSync(draft, 0o755); // whoever may read the source may read the copy
    renameSync(draft, copy);
    return copy;
  } catch {
    if (draft !== undefined) rmSync(draft, { recursive: true, force: true });
    return existsSync(copy) ? copy : undefined; // somebody else was faster, it is not ours to write to, or has no esbuild
  }
}

/** Running programs load files late, so a copy that was in use today stays. */
function dropOldCopies() {
  for (const name of readdirSync(COPIES)) {
    const path = join(COPIES, name);
    if (Date.now() - statSync(path).mtimeMs > DAY_MS) rmSync(path, { recursive: true, force: true });
  }
}

const copy = await joinedCopy();
await (copy === undefined ? import('./start.ts') : import(join(copy, START)));
