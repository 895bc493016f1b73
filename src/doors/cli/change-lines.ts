import { type ByteString, fromText } from '../../base/bytes.ts';
import { Items } from '../../base/items.ts';
import type { Change } from '../../base/values.ts';
import type { Context } from './context.ts';
import { harmless } from './errors.ts';
import { jsonLine, pathFields } from './json.ts';

const LETTERS = { add: 'A', modify: 'C', delete: 'D', rename: 'R' } as const;

/** `A /path`, `R /from -> /path`, the path's own bytes for a pipe and harmless for a terminal; or an object with `--json`. */
export function lineOfChange(context: Pick<Context, 'json' | 'out'>, change: Change): ByteString {
  const { kind, path, from } = change;
  if (context.json) return fromText(jsonLine(recordOf(change)));
  const shown = (one: ByteString): ByteString => (context.out.isTerminal ? fromText(harmless(one)) : one);
  return `${LETTERS[kind]} ${from === undefined ? '' : `${shown(from)} -> `}${shown(path)}` as ByteString;
}

/** A line for each. */
export async function writeChanges(
  context: Pick<Context, 'json' | 'out'>,
  changes: AsyncIterable<Change>,
): Promise<void> {
  for await (const batch of Items.batchesOf(changes)) {
    for (const change of batch) {
      const full = context.out.lineBytes(lineOfChange(context, change));
      if (full !== undefined) await full;
    }
  }
}

/** As JSON: `from` (or `fromBase64`) beside the path for a rename. */
export function recordOf({ kind, path, from }: Change): object {
  if (from === undefined) return { kind, ...pathFields(path) };
  const before = pathFields(from);
  return {
    kind,
    ...('path' in before ? { from: before.path } : { fromBase64: before.pathBase64 }),
    ...pathFields(path),
  };
}
