import { lstatSync, mkdirSync } from 'node:fs';
import { createRequire, enableCompileCache } from 'node:module';
import { join } from 'node:path';
import { runCompiled } from './compiled.ts';

// What bin/layerstore starts. Nothing but this is loaded before the cache of compiled code is in use.

/** Where this user keeps compiled code, or undefined. Whoever writes there runs code as us: it must be ours alone. */
function cacheDirectory(): string | undefined {
  const { HOME, XDG_CACHE_HOME, NODE_V8_COVERAGE, NODE_DISABLE_COMPILE_CACHE } = process.env;
  const uid = process.getuid?.();
  if (uid === undefined || NODE_V8_COVERAGE || NODE_DISABLE_COMPILE_CACHE) return undefined;
  // Under sudo HOME may be another user's.
  const base = uid === 0 ? '/var/cache' : XDG_CACHE_HOME || (HOME ? `${HOME}/.cache` : '');
  if (!base.startsWith('/')) return undefined;
  const path = `${base}/layerstore`;
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
    const { uid: owner, mode } = lstatSync(path);
    return owner === uid && (mode & 0o170000) === 0o040000 && (mode & 0o022) === 0 ? path : undefined;
  } catch {
    return undefined; // No cache is slower, and nothing else.
  }
}

/** Beside this file where it is joined. */
const PROGRAM = 'main.cjs';

/** The program from its source. */
function runSource(): void {
  type Program = typeof import('./main.ts');
  // To import() it would be read in another thread (2 ms); whoever forbids Node to require modules gets that.
  if (process.features.require_module) void (createRequire(import.meta.url)('./main.ts') as Program).main();
  else void import('./main.ts').then(({ main }) => main());
}

const directory = cacheDirectory();
if (import.meta.filename.endsWith('.ts')) {
  if (directory !== undefined) enableCompileCache(directory);
  runSource();
} else runCompiled(join(import.meta.dirname, PROGRAM), new URL(PROGRAM, import.meta.url), directory);
