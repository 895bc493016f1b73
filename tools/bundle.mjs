// Joins the modules of the command line and of its threads into few files: Node takes about half a millisecond to find,
// read and link each one, in every thread anew, and a command is some 60 modules, a job thread as many
// (docs/decisions/22-bundle.md).
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const SOURCE = join(ROOT, 'src');

/**
 * What `bin/layerstore` starts, below the directory of the package: as deep as the modules that look for package.json
 * from where they lie, and with the threads' modules where the others look for them.
 */
export const JOINED = 'dist/doors/cli/joined';
/** Each whole in one file: what of it a command does not import is not run, nor the modules of Node's that only that needs. */
const MAIN = 'doors/cli/main.ts';
const START = 'doors/cli/start.ts';
const THREADS = {
  'jobs/thread': 'graph/jobs/thread.ts',
  'jobs/control': 'graph/jobs/control.ts',
  'database-thread': 'store/database-thread.ts',
};

const ALWAYS_USED = new Set(['node:fs', 'node:path', 'node:vm']);

/** Writes the joined modules of this checkout's source into the package at `target`. Needs esbuild. */
export async function bundle(target) {
  const { build, stop } = await import('esbuild');
  const plugins = [loadedLate(importedNames())];
  const write = (out, file, more = {}) =>
    build({
      absWorkingDir: ROOT,
      entryPoints: [{ out, in: join(SOURCE, file) }],
      outdir: join(target, JOINED),
      bundle: true,
      format: 'esm',
      platform: 'node',
      target: 'node24',
      charset: 'ascii', // one character of another set, and V8 keeps all of the file in two bytes each
      logLevel: 'silent',
      plugins,
      ...more,
    });
  // A script, run by src/doors/cli/compiled.ts: of a module V8 keeps no code that was compiled while it ran.
  const program = async () => {
    await write('main', MAIN, {
      ...ofScript(),
      banner: { js: '(function (exports, require, module, __filename, __dirname, importMetaUrl) {' },
      footer: { js: '})' },
    });
    const joined = readFileSync(join(target, JOINED, 'main.cjs'));
    const state = createHash('sha256').update(joined).digest('hex').slice(0, 16);
    const start = { ...ofScript(), external: ['./main.ts'] };
    start.define.JOINED_STATE = JSON.stringify(state);
    await write('start', START, {
      ...start,
      banner: { js: '"use strict"; const importMetaUrl = process.getBuiltinModule("node:url").pathToFileURL(__filename).href;' },
    });
  };
  try {
    await Promise.all([program(), ...Object.entries(THREADS).map(([out, file]) => write(out, file))]);
  } finally {
    await stop();
  }
}

/** Who runs it says what `importMetaUrl` is. */
function ofScript() {
  return {
    format: 'cjs',
    outExtension: { '.js': '.cjs' },
    define: {
      'import.meta.url': 'importMetaUrl',
      'import.meta.filename': '__filename',
      'import.meta.dirname': '__dirname',
    },
  };
}

/** By module of Node's: the names that the source imports from it. */
function importedNames() {
  const names = new Map();
  for (const file of readdirSync(SOURCE, { recursive: true })) {
    if (!file.endsWith('.ts')) continue;
    const text = readFileSync(join(SOURCE, file), 'utf8');
    for (const [, list, module] of text.matchAll(/^import \{([^}]*)\} from '(node:[^']+)';/gm)) {
      const known = names.get(module) ?? new Set();
      for (const one of list.split(',')) {
        const name = one.trim().split(' ')[0];
        if (name !== '' && name !== 'type') known.add(name);
      }
      names.set(module, known);
    }
  }
  return names;
}

/**
 * Import declarations of one file are all carried out before anything of it runs. These are carried out when the first
 * module of the file that has one is, as if it were a file of its own. And to import a module of Node's makes all that
 * it could give, so that node:fs brings its streams (6 ms): to ask for it by name does not.
 */
function loadedLate(names) {
  return {
    name: 'loaded late',
    setup(build) {
      build.onResolve({ filter: /^node:/ }, ({ path, kind }) =>
        kind === 'import-statement' ? { path, namespace: 'late' } : { path, external: true },
      );
      build.onResolve({ filter: /^koffi$/ }, ({ path }) => ({ path, namespace: 'late' }));
      build.onLoad({ filter: /.*/, namespace: 'late' }, ({ path }) => ({
        contents: path === 'koffi' ? koffiWithoutLooking() : moduleOfNode(path, names.get(path) ?? []),
        loader: 'js',
      }));
    },
  };
}

/** What every command uses is loaded with the first module that imports it, all else with the first use of a name. */
function moduleOfNode(path, names) {
  const load = `process.getBuiltinModule('${path}')`;
  if (ALWAYS_USED.has(path)) {
    return `const it = ${load};
${[...names].map((name) => `export const ${name} = it.${name};`).join('\n')}`;
  }
  return `let it;
const get = () => (it ??= ${load});
module.exports = { __esModule: true, ${[...names].map((name) => `get ${name}() { return get().${name}; }`).join(', ')} };`;
}

/**
 * koffi finds out at every start, by the ELF headers of what runs, which of its builds fits (4 ms). The one that fits
 * nearly every machine is tried first, by its name: where npm puts it, then where koffi would find it; else koffi itself.
 * require() takes as long to find the first one as to load it (0.7 ms).
 */
function koffiWithoutLooking() {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'node_modules/koffi/package.json'), 'utf8'));
  return `const createRequire = (from) => process.getBuiltinModule('node:module').createRequire(from);
const { existsSync } = process.getBuiltinModule('node:fs');
const { dirname } = process.getBuiltinModule('node:path');
const machine = \`linux-\${process.arch}\`;
const build = \`@koromix/koffi-\${machine}/\${machine.replace('-', '_')}/koffi.node\`;
function near() {
  for (let at = import.meta.dirname; ; at = dirname(at)) {
    const file = \`\${at}/node_modules/\${build}\`;
    if (existsSync(file)) return native(() => opened(file));
    if (at === dirname(at)) return undefined;
  }
}
function opened(file) {
  const module = { exports: {} };
  process.dlopen(module, file);
  return module.exports;
}
function native(load) {
  try {
    const found = load();
    return found.version === '${version}' ? found : undefined;
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND' && error.code !== 'ERR_DLOPEN_FAILED') throw error;
    return undefined;
  }
}
const required = () => createRequire(import.meta.url);
export default near() ?? native(() => createRequire(required().resolve('koffi'))(build)) ?? required()('koffi');
`;
}

if (basename(process.argv[1] ?? '') === 'bundle.mjs') await bundle(ROOT);
