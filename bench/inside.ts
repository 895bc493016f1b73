import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const INSIDE = 'LAYERSTORE_BENCH_INSIDE';

/**
 * Runs `main` with a directory that is gone afterwards, in mount and process namespaces that end with it: whatever
 * happens, no daemon, mount or loop device is left. `file`: the program itself, which is run again for that. `where`:
 * what the directory is made in.
 */
export async function runInside(
  file: string,
  where: string | undefined,
  main: (scratch: string) => Promise<void>,
): Promise<void> {
  const scratch = process.env[INSIDE];
  if (process.getuid?.() !== 0) throw new Error('Cannot measure: only root may mount filesystems and start engines');
  if (scratch === undefined) {
    process.exitCode = await again(file, where ?? tmpdir());
    return;
  }
  // The parent shares our terminal's signals and ends us.
  for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => process.exit(130));
  await main(scratch);
}

async function again(file: string, where: string): Promise<number> {
  // Short: podman takes a run directory of 50 characters, the kernel a socket's path of 107.
  const scratch = mkdtempSync(join(resolve(where), 'lsb-'));
  const own = ['--mount', '--pid', '--fork', '--kill-child', '--mount-proc', '--propagation', 'private'];
  const run = [process.execPath, ...process.execArgv, file, ...process.argv.slice(2)];
  const child = spawn('unshare', [...own, ...run], {
    stdio: 'inherit',
    env: { ...process.env, [INSIDE]: scratch, LAYERSTORE_TEST_DIR: scratch },
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill('SIGKILL'));
  const { promise, resolve: done, reject } = Promise.withResolvers<number>();
  child.once('exit', (code) => done(code ?? 130)).once('error', reject);
  try {
    return await promise;
  } finally {
    rmSync(scratch, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}
