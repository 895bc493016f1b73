import type { ByteString } from '../base/bytes.ts';
import { inodeKey, isDirectory } from '../fs/stat.ts';
import type { Stat } from '../linux/inode.ts';
import type { Difference } from './types.ts';

// Files that did not change and have other names: an archive holds them where one of the others is in it.

/** A file of the view that is no change, but has other names: whether the archive carries it, they decide. */
export interface Unlisted {
  readonly kind: 'unlisted';
  readonly path: ByteString;
  readonly stat: Stat;
}

/** Steps held back while it is open whether a file is carried; beyond, a second walk finds out. */
const WAITING_MAX = 20_000;

/** Turns each unlisted file that has a listed name, earlier or later, into a carried one; drops the others. */
export function* carryLinked(
  walk: () => Iterable<Difference | Unlisted | undefined>,
): Generator<Difference | undefined, void, undefined> {
  const listed = new Set<string>();
  const note = (step: Difference | Unlisted): void => {
    if ((step.kind === 'add' || step.kind === 'modify') && step.stat !== undefined && isLinked(step.stat)) {
      listed.add(inodeKey(step.stat));
    }
  };
  const decide = (step: Difference | Unlisted): Difference | undefined => {
    if (step.kind !== 'unlisted') return step;
    if (!listed.has(inodeKey(step.stat))) return undefined;
    return { kind: 'carried', because: 'linked', path: step.path, stat: step.stat };
  };
  let waiting: (Difference | Unlisted)[] = [];
  let complete = false;
  for (const step of walk()) {
    if (step === undefined) {
      yield;
      continue;
    }
    note(step);
    if (complete || (waiting.length === 0 && step.kind !== 'unlisted')) {
      const difference = decide(step);
      if (difference !== undefined) yield difference;
      continue;
    }
    waiting.push(step);
    if (waiting.length < WAITING_MAX) continue;
    for (const other of walk()) {
      if (other === undefined) yield;
      else note(other);
    }
    complete = true;
    yield* waiting.map(decide).filter((difference) => difference !== undefined);
    waiting = [];
  }
  for (const step of waiting) {
    const difference = decide(step);
    if (difference !== undefined) yield difference;
  }
}

export function isLinked(stat: Stat): boolean {
  return stat.nlink > 1 && !isDirectory(stat);
}
