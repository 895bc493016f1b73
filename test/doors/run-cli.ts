import { spawn, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export const LAUNCHER: string = fileURLToPath(new URL('../../bin/layerstore', import.meta.url));

export interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly input?: string | Buffer;
  readonly env?: Readonly<Record<string, string>>;
  readonly uid?: number;
  readonly cwd?: string;
}

/** Environment of every run: nothing of the caller's settings. */
function environment(env: RunOptions['env']): NodeJS.ProcessEnv {
  return { PATH: process.env['PATH'], ...env };
}

/** One command on the store at `root`. */
export function layerstore(root: string, args: readonly string[], options: RunOptions = {}): Ran {
  const { env, ...rest } = options;
  return spawnSync(LAUNCHER, args, {
    ...rest,
    encoding: 'utf8',
    env: environment({ LAYERSTORE_ROOT: root, ...env }),
    maxBuffer: 1 << 28,
    timeout: 60_000,
  });
}

/** A shell line in which `$L` is the launcher and LAYERSTORE_ROOT the store; for pipes and for bytes. */
export function shell(root: string, line: string, env: RunOptions['env'] = {}): Ran {
  return spawnSync('bash', ['--norc', '-c', line], {
    encoding: 'utf8',
    env: environment({ L: LAUNCHER, LAYERSTORE_ROOT: root, ...env }),
    maxBuffer: 1 << 28,
    timeout: 120_000,
  });
}

/** A command on a terminal of 24 lines of 80 characters; `stdout` is all that the terminal got. */
export function onTerminal(root: string, args: readonly string[], env: RunOptions['env'] = {}): Ran {
  const program = 'import os,pty,sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))';
  return spawnSync('python3', ['-c', program, LAUNCHER, ...args], {
    encoding: 'utf8',
    env: environment({ LAYERSTORE_ROOT: root, TERM: 'xterm', ...env }),
    timeout: 60_000,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
}

/** A command whose standard input stays open and silent; `signal` it, then await `ended`. */
export function waitingOnInput(
  root: string,
  args: readonly string[],
): { signal(name: NodeJS.Signals): void; ended: Promise<Ran> } {
  const child = spawn(LAUNCHER, args, { env: environment({ LAYERSTORE_ROOT: root }), stdio: ['pipe', 'pipe', 'pipe'] });
  let stdout = '';
  let stderr = '';
  child.stdout.on('data', (chunk) => (stdout += chunk));
  child.stderr.on('data', (chunk) => (stderr += chunk));
  return {
    signal: (name) => void child.kill(name),
    ended: new Promise((resolve) => child.on('close', (status) => resolve({ status, stdout, stderr }))),
  };
}
