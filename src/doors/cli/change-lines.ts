import { type ByteString, fromText } from '../../base/bytes.ts';
import type { Change } from '../../base/values.ts';
import type { Context } from './context.ts';
import { harmless } from './errors.ts';
import { jsonLine, pathFields } from './json.ts';

const LETTERS = { add: 'A', modify: 'C', delete: 'D' } as const;

/** `A /path`, the path's own bytes for a pipe and harmless for a terminal; or an object with `--json`. */
export function lineOfChange(context: Pick<Context, 'json' | 'out'>, { kind, path }: Change): ByteString {
  if (context.json) return fromText(jsonLine({ kind, ...pathFields(path) }));
  return `${LETTERS[kind]} ${context.out.isTerminal ? fromText(harmless(path)) : path}` as ByteString;
}
