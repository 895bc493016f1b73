import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { basename } from 'node:path';
import type { Readable } from 'node:stream';

export interface CommandOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** A file that is its input; default: nothing. */
  readonly input?: string;
  readonly cwd?: string;
}

/** A shell that tells on descriptor 3 when it began to start the program, and when that was over. */
const CLOCK = 'began=$EPOCHREALTIME; "$@" 3>&-; status=$?; echo "$began $EPOCHREALTIME" >&3; exit $status';

/** What commands took longer than by the clock of the shell that ran them: to start programs takes this one milliseconds. */
export const overhead = { seconds: 0 };

/** Runs a program and gives what it printed; a failure rejects with the end of what it said. */
export async function command(
  program: string,
  args: readonly string[],
  { env = {}, input, cwd }: CommandOptions = {},
): Promise<string> {
  const stdin = input === undefined ? 'ignore' : openSync(input, 'r');
  try {
    const start = performance.now();
    const child = spawn('bash', ['--norc', '-c', CLOCK, 'bash', program, ...args], {
      stdio: [stdin, 'pipe', 'pipe', 'pipe'],
      env: { PATH: process.env['PATH'], HOME: '/root', LC_ALL: 'C.UTF-8', ...env },
      ...(cwd === undefined ? {} : { cwd }),
    });
    let [stdout, stderr, times] = ['', '', ''];
    child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      stderr = (stderr + text).slice(-4000);
    });
    (child.stdio[3] as Readable).setEncoding('utf8').on('data', (text: string) => {
      times += text;
    });
    const { promise, resolve, reject } = Promise.withResolvers<number | NodeJS.Signals | null>();
    child.once('error', reject).once('close', (code, signal) => resolve(code ?? signal));
    const status = await promise;
    const [began = Number.NaN, ended = Number.NaN] = times.split(' ').map(Number);
    if (status === 0) overhead.seconds += (performance.now() - start) / 1000 - (ended - began);
    if (status !== 0) throw new Error(`${basename(program)} ended with ${status}: ${stderr.trim()}`);
    return stdout;
  } finally {
    if (typeof stdin === 'number') closeSync(stdin);
  }
}

/** A shell line; `args` are "$1", "$2"… in it. */
export function shell(line: string, args: readonly string[], options?: CommandOptions): Promise<string> {
  return command('bash', ['--norc', '-o', 'pipefail', '-ec', line, 'bash', ...args], options);
}
