import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

// Runs the tests: all, or the files named. As root they run in mount and process namespaces of their own, on a tmpfs:
// whatever a test leaves mounted, running or lying about is gone at the end, also when a test or the run is killed.

const ISOLATED = 'LAYERSTORE_TESTS_ISOLATED';
const TESTS = 'test/**/*.test.ts';

/** What tests switch in the kernel for a while is the whole machine's. */
const PARAMETERS = globSync('/sys/module/overlay/parameters/*');

async function isolate(): Promise<number> {
  const parameters = PARAMETERS.map((path) => [path, readFileSync(path, 'utf8')] as const);
  const dir = mkdtempSync(join(tmpdir(), 'layerstore-tests-'));
  try {
    // Bare drivers keep holds and locks below /run: the tests' own go with the namespace.
    const runDirectory = 'mkdir -p /run/layerstore && mount -t tmpfs -o mode=700 layerstore-tests /run/layerstore';
    const script = `mount -t tmpfs -o mode=755 layerstore-tests "$0" && ${runDirectory} && exec "$@"`;
    const own = ['unshare', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
    const tests = ['sh', '-c', script, dir, process.execPath, import.meta.filename, ...process.argv.slice(2)];
    const env = { ...process.env, [ISOLATED]: '1', LAYERSTORE_TEST_DIR: dir };
    // unshare itself outlives its parent, and hears no signal that asks.
    const child = spawn('setpriv', ['--pdeathsig', 'KILL', ...own, ...tests], { stdio: 'inherit', env });
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => child.kill('SIGKILL'));
    const [status] = await once(child, 'exit');
    return status ?? 1;
  } finally {
    rmSync(dir, { recursive: true, force: true });
    for (const [path, value] of parameters) if (readFileSync(path, 'utf8') !== value) writeFileSync(path, value);
    spawnSync('rmdir', ['/run/layerstore'], { stdio: 'ignore' }); // where it was not there before
  }
}

function run(): Promise<number> {
  const named = process.argv.slice(2);
  const files = (named.length > 0 ? named : globSync(TESTS)).toSorted();
  const flags = ['--test', '--test-concurrency=2', '--test-timeout=600000', '--test-reporter=spec'];
  const child = spawn(process.execPath, [...flags, ...files], { stdio: 'inherit' });
  return new Promise((resolve) => child.on('exit', (code) => resolve(code ?? 1)));
}

const canIsolate =
  process.getuid?.() === 0 && spawnSync('unshare', ['--mount', '--pid', '--fork', '--mount-proc', 'true']).status === 0;
if (process.env[ISOLATED] === undefined && canIsolate) process.exitCode = await isolate();
else process.exitCode = await run();
