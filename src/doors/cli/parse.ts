import { type ByteString, quote } from '../../base/bytes.ts';
import { StorageError } from '../../base/errors.ts';
import type { Given, OptionSpec, OptionSpecs } from './command.ts';

/** A wrong command line; the door adds the usage line and exits with 2. */
export class UsageError extends StorageError {
  constructor(state: string) {
    super('invalid-argument', state);
  }
}

export interface Parsed<O extends OptionSpecs> {
  readonly given: Given<O>;
  readonly operands: readonly ByteString[];
  /** What was not looked at, with `stopAtOperand`: the operand and all behind it. */
  readonly rest: readonly ByteString[];
}

/**
 * Options and operands of `args`, as getopt_long(3) reads them: `--name value`, `--name=value`, `-n value`, `-nvalue`,
 * `-ab`; `--` ends the options, `-` is an operand. Of an option given twice the last counts, a `list` keeps all.
 */
export function parseOptions<O extends OptionSpecs>(
  args: readonly ByteString[],
  specs: O,
  { stopAtOperand = false }: { readonly stopAtOperand?: boolean } = {},
): Parsed<O> {
  const values = new Map<string, ByteString[]>();
  const operands: ByteString[] = [];
  const longs = new Map(Object.entries(specs));
  const shorts = new Map<string, string>();
  for (const [name, spec] of longs) if (spec.short !== undefined) shorts.set(spec.short, name);

  let at = 0;
  const take = (name: string, shown: string, attached: ByteString | undefined): void => {
    const value = attached ?? args[at++];
    if (value === undefined) throw new UsageError(`option ${shown} needs a value`);
    values.set(name, [...(values.get(name) ?? []), value]);
  };
  while (at < args.length) {
    const arg = args[at] as ByteString;
    if (arg === '--') {
      operands.push(...args.slice(at + 1));
      break;
    }
    if (!arg.startsWith('-') || arg === '-') {
      if (stopAtOperand) return { given: collect(specs, values), operands, rest: args.slice(at) };
      operands.push(arg);
      at++;
      continue;
    }
    at++;
    if (arg.startsWith('--')) {
      const equals = arg.indexOf('=');
      const name = equals < 0 ? arg.slice(2) : arg.slice(2, equals);
      const attached = equals < 0 ? undefined : (arg.slice(equals + 1) as ByteString);
      const spec = known(longs.get(name), `--${name}`);
      if (spec.kind !== 'flag') take(name, `--${name}`, attached);
      else if (attached !== undefined) throw new UsageError(`option --${name} takes no value`);
      else values.set(name, []);
      continue;
    }
    for (let i = 1; i < arg.length; i++) {
      const letter = arg.charAt(i);
      const name = shorts.get(letter) ?? '';
      const spec = known(longs.get(name), `-${letter}`);
      if (spec.kind === 'flag') values.set(name, []);
      else {
        take(name, `-${letter}`, i + 1 < arg.length ? (arg.slice(i + 1) as ByteString) : undefined);
        break;
      }
    }
  }
  return { given: collect(specs, values), operands, rest: [] };
}

function known(spec: OptionSpec | undefined, shown: string): OptionSpec {
  if (spec === undefined) throw new UsageError(`unknown option ${quote(shown as ByteString)}`);
  return spec;
}

function collect<O extends OptionSpecs>(specs: O, values: ReadonlyMap<string, readonly ByteString[]>): Given<O> {
  const given = Object.entries(specs).map(([name, { kind }]) => {
    const all = values.get(name);
    return [name, kind === 'flag' ? all !== undefined : kind === 'list' ? (all ?? []) : all?.at(-1)];
  });
  return Object.fromEntries(given) as Given<O>;
}

/** Refuses a number of operands that the command does not take. */
export function checkCount(operands: readonly ByteString[], [least, most]: readonly [number, number]): void {
  if (operands.length < least) {
    throw new UsageError(
      `${operands.length === 0 ? 'nothing' : `only ${operands.length}`} given, it needs ${least === most ? '' : 'at least '}${least}`,
    );
  }
  if (operands.length > most) throw new UsageError(`unexpected argument ${quote(operands[most] as ByteString)}`);
}
