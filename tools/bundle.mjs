// Joins the modules of the command line and of its threads into few files: Node takes about half a millisecond to find,
// read and link each one, in every thread anew, and a command is some 60 modules, a job thread as many
// (docs/decisions/22-bundle.md).
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));

/**
 * What `bin/layerstore` starts, below the directory of the package: as deep as the modules that look for package.json
 * from where they lie, and with the threads' modules where the others look for them.
 */
export const JOINED = 'dist/doors/cli/joined';
/** What only some commands need is in files of its own. */
const PROGRAM = { start: 'doors/cli/start.ts' };
/** Each whole in one file: threads share no loaded modules, so they need no shared files either. */
const THREADS = {
  'jobs/thread': 'graph/jobs/thread.ts',
  'jobs/control': 'graph/jobs/control.ts',
  'database-thread': 'store/database-thread.ts',
};

/** Writes the joined modules of this checkout's source into the package at `target`. Needs esbuild. */
export async function bundle(target) {
  const { build, stop } = await import('esbuild');
  const write = (entries, splitting) =>
    build({
      absWorkingDir: ROOT,
      entryPoints: Object.entries(entries).map(([out, file]) => ({ out, in: join(ROOT, 'src', file) })),
      outdir: join(target, JOINED),
      bundle: true,
      splitting,
      format: 'esm',
      platform: 'node',
      target: 'node24',
      packages: 'external',
      charset: 'utf8',
      logLevel: 'silent',
    });
  try {
    await Promise.all([write(PROGRAM, true), write(THREADS, false)]);
  } finally {
    await stop();
  }
}

if (basename(process.argv[1] ?? '') === 'bundle.mjs') await bundle(ROOT);
