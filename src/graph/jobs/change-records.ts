import type { ByteString } from '../../base/bytes.ts';
import type { Change } from '../../base/values.ts';

// Changes on their way from a job: `A/path\0`, `R/to\0/from\0` for a rename.

const KINDS: Readonly<Record<Change['kind'], string>> = { add: 'A', modify: 'C', delete: 'D', rename: 'R' };

export function recordOf({ kind, path, from }: Change): string {
  return `${KINDS[kind]}${path}\0${from === undefined ? '' : `${from}\0`}`;
}

/** The changes in such records, piece by piece. */
export async function* readChanges(
  records: AsyncIterable<Uint8Array>,
): AsyncGenerator<readonly Change[], void, undefined> {
  const kinds: Readonly<Record<string, Change['kind']>> = { A: 'add', C: 'modify', D: 'delete' };
  let rest = '';
  let renamed: ByteString | undefined;
  for await (const chunk of records) {
    const parts = (rest + Buffer.from(chunk).toString('latin1')).split('\0');
    rest = parts.pop() ?? '';
    const found: Change[] = [];
    for (const part of parts) {
      if (renamed !== undefined) {
        found.push({ kind: 'rename', path: renamed, from: part as ByteString });
        renamed = undefined;
        continue;
      }
      const path = part.slice(1) as ByteString;
      if (part.startsWith(KINDS.rename)) renamed = path;
      else found.push({ kind: kinds[part.slice(0, 1)] ?? 'modify', path });
    }
    yield found;
  }
}
