import { type ByteString, fromText } from '../../base/bytes.ts';
import type { Log } from '../../base/log.ts';
import { textOf, variable } from './arguments.ts';
import type { FlagSpec, Given, ListSpec, ValueSpec } from './command.ts';
import { UsageError } from './parse.ts';

/** Options of every command, before or behind its name. */
export const GLOBAL_OPTIONS: {
  readonly root: ValueSpec;
  readonly driver: ValueSpec;
  readonly 'driver-opt': ListSpec;
  readonly json: FlagSpec;
  readonly quiet: FlagSpec;
  readonly 'log-level': ValueSpec;
  readonly help: FlagSpec;
  readonly version: FlagSpec;
} = {
  root: { kind: 'value', value: 'DIR', help: 'where the store is (LAYERSTORE_ROOT; default /var/lib/layerstore)' },
  driver: {
    kind: 'value',
    value: 'NAME',
    help: 'storage driver of a new store (LAYERSTORE_DRIVER; default: what works)',
  },
  'driver-opt': { kind: 'list', value: 'K=V', help: 'option for the driver; may be repeated' },
  json: { kind: 'flag', help: 'one JSON document, or one JSON object a line' },
  quiet: { kind: 'flag', short: 'q', help: 'no progress' },
  'log-level': { kind: 'value', value: 'LEVEL', help: 'error, warn (default), info or debug' },
  help: { kind: 'flag', short: 'h', help: 'how to use the command' },
  version: { kind: 'flag', help: 'print the version' },
};

export type GlobalOptions = Given<typeof GLOBAL_OPTIONS>;

/** Those given before the command and those behind it as one; the later wins, lists are joined. */
export function joinGlobals(before: GlobalOptions, behind: GlobalOptions): GlobalOptions {
  return {
    root: behind.root ?? before.root,
    driver: behind.driver ?? before.driver,
    'driver-opt': [...before['driver-opt'], ...behind['driver-opt']],
    json: before.json || behind.json,
    quiet: before.quiet || behind.quiet,
    'log-level': behind['log-level'] ?? before['log-level'],
    help: before.help || behind.help,
    version: before.version || behind.version,
  };
}

/** What the options and the environment say, as text. */
export interface Settings {
  readonly root: ByteString;
  readonly driver: string | undefined;
  readonly driverOptions: readonly string[];
  readonly logLevel: LogLevel;
}

export type LogLevel = 'error' | 'warn' | 'info' | 'debug';
const LEVELS: readonly LogLevel[] = ['error', 'warn', 'info', 'debug'];

/** Options win over the environment; what is set to nothing counts as not set there. */
export function settingsOf(globals: GlobalOptions, env: NodeJS.ProcessEnv): Settings {
  const text = (arg: ByteString | undefined, what: string): string | undefined =>
    arg === undefined ? undefined : textOf(arg, what);
  const root = globals.root ?? (variable('LAYERSTORE_ROOT', env) || fromText('/var/lib/layerstore'));
  if (root === '') throw new UsageError('--root is empty');
  const level = text(globals['log-level'], 'the log level') ?? 'warn';
  const logLevel = LEVELS.find((one) => one === level);
  if (logLevel === undefined) throw new UsageError(`--log-level is one of ${LEVELS.join(', ')}`);
  return {
    root,
    driver: text(globals.driver, 'the driver') ?? (env['LAYERSTORE_DRIVER'] || undefined),
    driverOptions: globals['driver-opt'].map((option) => textOf(option, 'the driver option')),
    logLevel,
  };
}

/** A log that writes lines of `level` and above it through `write`. */
export function logTo(write: (line: string) => void, level: LogLevel): Log {
  const rank = LEVELS.indexOf(level);
  const from = (name: LogLevel, prefix: string) => (message: string) => {
    // A message may hold a name that has a newline in it.
    if (rank >= LEVELS.indexOf(name)) write(`layerstore: ${prefix}${message.replace(/[\r\n]+/g, ' ')}`);
  };
  return { warn: from('warn', 'warning: '), info: from('info', ''), debug: from('debug', 'debug: ') };
}
