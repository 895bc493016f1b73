import type { ByteString } from '../../base/bytes.ts';
import { Comparer, decidedNow } from '../../diff/compare.ts';
import { type IndexPlace, readIndex, refuseIndexed } from '../../diff/indexed.ts';
import { Descent } from '../../fs/descent.ts';
import { inodeKey } from '../../fs/stat.ts';
import { close, O_NOFOLLOW, O_PATH, openat } from '../../linux/inode.ts';
import { MS_BIND, mount } from '../../linux/mount.ts';
import { performMount } from '../../mount/perform.ts';

const NOTHING = '' as ByteString;

/**
 * Lets a mounted view show what its overlay shows by its index: over each name that is not in the upper lies a bind of
 * one that is, or of the copy in the index where all names in the upper were removed. Only in a mount namespace of the
 * job's own. Answers one of these paths, undefined where there is none. `scratch`: an empty directory.
 * `unsupported`: what `readIndex` cannot tell; a changed copy without a name in the upper, if it has several other
 * names, which nothing would tell are links, or its data lie below.
 */
export function showIndexed(place: IndexPlace, view: ByteString, scratch: ByteString): ByteString | undefined {
  const indexed = readIndex(place, view);
  if (indexed === undefined) return undefined;
  performMount({ type: 'bind', source: indexed.index, readonly: true }, scratch);
  using at = Descent.open(view);
  using copies = Descent.open(scratch);
  const comparer = new Comparer('core');
  let first: ByteString | undefined;
  for (const [{ name, stat, metacopy }, strays] of indexed.strays) {
    const named = indexed.inUpper.get(inodeKey(stat));
    if (named === undefined) {
      const copy = { at: copies, name, stat };
      const isLike = (stray: (typeof strays)[number]): boolean =>
        decidedNow(
          comparer.compare(
            copy,
            { at: { fd: parentOf(at, stray.path) }, name: nameOf(stray.path), stat: stray.stat },
            !metacopy,
          ),
        );
      if (strays.every(isLike)) continue;
      if (metacopy || strays.length > 1) throw refuseIndexed(indexed.index);
    }
    const source =
      named === undefined
        ? openat(copies.fd, name, O_PATH | O_NOFOLLOW)
        : openat(parentOf(at, named), nameOf(named), O_PATH | O_NOFOLLOW);
    try {
      for (const { path } of strays) {
        first ??= path;
        bindOver(source, at, path);
      }
    } finally {
      close(source);
    }
  }
  return first;
}

/** By descriptors: what is mounted over what may be symlinks, and their paths longer than a call takes. */
function bindOver(source: number, at: Descent, path: ByteString): void {
  const target = openat(parentOf(at, path), nameOf(path), O_PATH | O_NOFOLLOW);
  try {
    const byDescriptor = (fd: number): ByteString => `/proc/thread-self/fd/${fd}` as ByteString;
    mount(byDescriptor(source), byDescriptor(target), NOTHING, MS_BIND, NOTHING);
  } finally {
    close(target);
  }
}

function parentOf(at: Descent, path: ByteString): number {
  at.moveTo(path.split('/').slice(1, -1) as ByteString[]);
  return at.fd;
}

function nameOf(path: ByteString): ByteString {
  return path.slice(path.lastIndexOf('/') + 1) as ByteString;
}
