import { writeSync } from 'node:fs';
import type { ByteString } from '../../base/bytes.ts';
import { quote } from '../../base/bytes.ts';
import { nowMs } from '../../base/clock.ts';
import { StorageError } from '../../base/errors.ts';
import { readArguments, textOf } from './arguments.ts';
import type { Command, OptionSpecs } from './command.ts';
import { findCommand, isGroup } from './commands.ts';
import type { Context } from './context.ts';
import { end, standardFlags } from './end.ts';
import { GLOBAL_OPTIONS, type GlobalOptions, joinGlobals, logTo, settingsOf } from './globals.ts';
import { Output } from './output.ts';
import { checkCount, parseOptions, UsageError } from './parse.ts';
import { StandardError } from './standard-error.ts';

/** Why a run was given up: the user's wish, or nobody reads standard output any more. */
class GivenUp extends Error {
  readonly exitCode: number;
  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}

// Beside the table of exit-codes.ts, which is loaded with the first error.
const OUT_OF_RESOURCES = 8;
const INTERNAL = 70;
const INTERRUPTED = 130;
const IMPATIENCE_MS = 1000;

/** Runs the command line of this process and ends it with the exit code; `named`: told which command it is. */
export async function main(named: (command: string) => void = () => {}): Promise<never> {
  const flags = standardFlags();
  const giving = new AbortController();
  let since = 0;
  giving.signal.addEventListener('abort', () => {
    since = nowMs();
  });
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(name, () => {
      // One wish may come as two signals at once, to the process and to its group, or with the reader's leaving; only a
      // later one is impatience.
      if (giving.signal.aborted && nowMs() - since > IMPATIENCE_MS) end(INTERRUPTED, flags);
      if (giving.signal.aborted) return;
      giving.abort(new GivenUp('interrupted', INTERRUPTED));
    });
  }
  const out = new Output(giving.signal, () => {
    giving.abort(
      out.isCut ? new GivenUp('interrupted: the reader left in the middle', INTERRUPTED) : new GivenUp('', 0),
    );
  });
  const errors = new StandardError();
  process.once(
    'uncaughtException',
    (error) => void fail(error, errors, giving.signal).then((code) => end(code, flags)),
  );
  let code: number;
  try {
    writeSync(1, new Uint8Array(0)); // closed: said before anything is done
    code = await run(readArguments(process.argv), { out, errors, signal: giving.signal, named });
    await out.flush();
    if (out.isCut) throw giving.signal.reason; // with the last bytes
  } catch (error) {
    code = await fail(error, errors, giving.signal);
  }
  await errors.flush();
  end(code, flags);
}

/** Says on standard error what went wrong, and answers the exit code. */
async function fail(error: unknown, { stream }: StandardError, signal: AbortSignal): Promise<number> {
  if (signal.aborted) {
    const { message, exitCode } = signal.reason as GivenUp;
    if (message !== '') stream.write(`layerstore: ${message}\n`);
    return exitCode;
  }
  const { tell } = await import('./tell.ts').catch(() => ({ tell: tellBriefly }));
  return tell(error, stream, /--log-level[= ]debug/.test(process.argv.join(' ')));
}

/** Where nothing can be loaded any more: no descriptor is left, say. */
function tellBriefly(error: unknown, stderr: NodeJS.WritableStream): number {
  const { message, code } = error as NodeJS.ErrnoException;
  stderr.write(`layerstore: ${message}\n`);
  const lacking = code === 'resource-exhausted' || /too many open files|E[MN]FILE/i.test(`${code} ${message}`);
  return lacking ? OUT_OF_RESOURCES : INTERNAL;
}

interface Ends {
  readonly out: Output;
  readonly errors: StandardError;
  readonly signal: AbortSignal;
  readonly named: (command: string) => void;
}

async function run(args: readonly ByteString[], ends: Ends): Promise<number> {
  const { out } = ends;
  const { name, before, rest } = findName(args);
  if (name === '') return withoutCommand(before, out);
  const entry = findCommand(name);
  if (entry === undefined) return notACommand(name, before, rest, out);
  const { command } = await entry.load();
  try {
    const { given, operands } = parseOptions(rest, { ...GLOBAL_OPTIONS, ...command.options });
    const globals = joinGlobals(before, given as unknown as GlobalOptions);
    if (globals.help) {
      const { commandHelp } = await import('./help.ts');
      await out.line(commandHelp(name, entry.summary, command));
      return 0;
    }
    checkCount(operands, command.operands);
    if (!WITHOUT_STORE.has(name)) checkMachine(name);
    ends.named(name);
    const context = makeContext(globals, command, ends);
    return (await command.run(context, given as never, operands)) ?? 0;
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    const usage = `layerstore ${name} ${command.usage}`.trimEnd();
    throw new UsageError(`Cannot run "${name}": ${error.message}; usage: ${usage}`);
  }
}

/** The command's name, of one word or two, with what stands before and behind it. */
function findName(args: readonly ByteString[]): { name: string; before: GlobalOptions; rest: readonly ByteString[] } {
  const first = globalsUpToOperand(args);
  const [word, ...rest] = first.rest;
  const name = word === undefined ? '' : textOf(word, 'the command');
  if (!isGroup(name)) return { name, before: first.given, rest };
  const second = globalsUpToOperand(rest);
  const [verb, ...behind] = second.rest;
  const before = joinGlobals(first.given, second.given);
  return { name: verb === undefined ? name : `${name} ${textOf(verb, 'the command')}`, before, rest: behind };
}

function globalsUpToOperand(args: readonly ByteString[]): ReturnType<typeof parseOptions<typeof GLOBAL_OPTIONS>> {
  try {
    return parseOptions(args, GLOBAL_OPTIONS, { stopAtOperand: true });
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new UsageError(`Cannot run: ${error.message}; usage: layerstore [OPTION…] COMMAND …, see "layerstore help"`);
  }
}

async function withoutCommand(globals: GlobalOptions, out: Output): Promise<number> {
  if (globals.version) {
    const { versionLine } = await import('./commands/version.ts');
    await out.line(versionLine());
    return 0;
  }
  if (!globals.help) {
    throw new UsageError('Cannot run: no command; usage: layerstore [OPTION…] COMMAND …, see "layerstore help"');
  }
  const { overview } = await import('./help.ts');
  await out.line(overview());
  return 0;
}

async function notACommand(
  name: string,
  globals: GlobalOptions,
  rest: readonly ByteString[],
  out: Output,
): Promise<number> {
  if (!isGroup(name)) {
    throw new UsageError(`Cannot run ${quote(name as ByteString)}: no such command, see "layerstore help"`);
  }
  if (!globals.help && rest.length === 0) {
    throw new UsageError(`Cannot run "${name}": it needs a verb, see "layerstore help ${name}"`);
  }
  const { overview } = await import('./help.ts');
  await out.line(overview(name));
  return 0;
}

const WITHOUT_STORE: ReadonlySet<string> = new Set(['version', 'help', 'doctor']);

function checkMachine(name: string): void {
  if (process.platform !== 'linux') {
    throw new StorageError('unsupported', `Cannot run "${name}": it needs Linux, and this is ${process.platform}`);
  }
  if (process.geteuid?.() !== 0) {
    throw new StorageError('permission-denied', `Cannot run "${name}": a store needs root so far; run it with sudo`);
  }
}

function makeContext(globals: GlobalOptions, command: Command, { out, errors, signal }: Ends): Context {
  const { root, driver, driverOptions, logLevel } = settingsOf(globals, process.env);
  const options: OptionSpecs = command.options;
  return {
    root,
    driver,
    driverOptions,
    json: globals.json,
    // A list's own `-q` means ids only; it shows no progress anyway.
    quiet: globals.quiet && !('quiet' in options),
    log: logTo((line) => errors.stream.write(`${line}\n`), logLevel),
    signal,
    out,
    stdin: () => process.stdin,
    get stderr() {
      return errors.stream;
    },
    env: process.env,
  };
}
