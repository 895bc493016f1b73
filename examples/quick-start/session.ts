import { spawnSync } from 'node:child_process';

/** A shell session that people can read: each command is shown as it would be typed, and then done. */
export class Session {
  readonly #cwd: string;
  readonly #env: Record<string, string | undefined>;

  constructor(cwd: string, env: Readonly<Record<string, string>>) {
    this.#cwd = cwd;
    this.#env = { ...process.env, ...env };
  }

  say(text = ''): void {
    console.log(text);
  }

  /** Does one line of shell. A failure ends the session; its message is on standard error by then. */
  run(line: string): string {
    this.say(`\n$ ${line}`);
    const output = this.quietly(line);
    process.stdout.write(output);
    return output;
  }

  /** Does `NAME=$(command)`: what it printed is a variable of later lines. */
  assign(name: string, command: string): void {
    this.#env[name] = this.run(`${name}=$(${command}); echo "$${name}"`).trim();
  }

  /** As `run`, showing nothing but errors. */
  quietly(line: string): string {
    const { status, signal, stdout } = spawnSync('sh', ['-c', line], {
      cwd: this.#cwd,
      env: this.#env,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    if (status === 0) return stdout;
    process.stdout.write(stdout ?? '');
    throw new Error(`The command above ended with ${signal ?? status}: ${line}`);
  }
}
