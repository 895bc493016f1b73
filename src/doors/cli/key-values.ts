import { type ByteString, quote } from '../../base/bytes.ts';
import { textOf } from './arguments.ts';
import { UsageError } from './parse.ts';

/** `k=v` options as a record; the last of equal keys wins. */
export function keyValues(options: readonly ByteString[]): Readonly<Record<string, string>> {
  const pairs = options.map((option) => {
    const text = textOf(option, 'the option');
    const equals = text.indexOf('=');
    if (equals < 1) throw new UsageError(`option ${quote(option)} is not KEY=VALUE`);
    return [text.slice(0, equals), text.slice(equals + 1)] as const;
  });
  return Object.fromEntries(pairs);
}
