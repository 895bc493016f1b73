import type { ByteString } from '../../base/bytes.ts';
import type { Context } from './context.ts';

interface AnyOption {
  readonly short?: string;
  readonly help: string;
}
export interface FlagSpec extends AnyOption {
  readonly kind: 'flag';
}
export interface ValueSpec extends AnyOption {
  readonly kind: 'value';
  /** What stands for the value in the help. */
  readonly value: string;
}
/** May be repeated; all values count. */
export interface ListSpec extends AnyOption {
  readonly kind: 'list';
  readonly value: string;
}
export type OptionSpec = FlagSpec | ValueSpec | ListSpec;

/** By long name, without the dashes. */
export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

/** What was given: flags as booleans, values as bytes; a `list` keeps the order. */
export type Given<O extends OptionSpecs> = {
  readonly [K in keyof O]: O[K]['kind'] extends 'flag'
    ? boolean
    : O[K]['kind'] extends 'list'
      ? readonly ByteString[]
      : ByteString | undefined;
};

/** One command: what it takes, for parser and help, and what it does. The answer is an exit code, 0 if none. */
export interface Command<O extends OptionSpecs = OptionSpecs> {
  /** Operands and options as the usage line shows them, without the command's name. */
  readonly usage: string;
  /** Least and most operands. */
  readonly operands: readonly [number, number];
  readonly options: O;
  run(context: Context, given: Given<O>, operands: readonly ByteString[]): Promise<number | undefined>;
}

/** Gives `run` the types that `options` implies. */
export function defineCommand<const O extends OptionSpecs>(command: Command<O>): Command {
  return command as unknown as Command;
}
