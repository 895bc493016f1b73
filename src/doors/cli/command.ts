import type { ByteString } from '../../base/bytes.ts';
import type { Context } from './context.ts';

/** One option of a command. `value` is what stands for its value in the help. */
export type OptionSpec =
  | { readonly kind: 'flag'; readonly short?: string; readonly help: string }
  | { readonly kind: 'value' | 'list'; readonly short?: string; readonly value: string; readonly help: string };

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
