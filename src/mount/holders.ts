import { readdirSync, readFileSync } from 'node:fs';
import { type ByteString, fromBytes, fromText, quote } from '../base/bytes.ts';
import { AT_FDCWD, close, fstat, O_PATH, openat, readlinkat } from '../linux/inode.ts';
import { mountNamespace, processStart } from '../linux/kernel.ts';
import { type MountEntry, readMountInfo } from '../linux/mountinfo.ts';
import { commandLine } from './holds.ts';

/** Who keeps a mount from being unmounted. */
export type Holder =
  | { readonly kind: 'process'; readonly pid: number; readonly command: ByteString; readonly what: string }
  | { readonly kind: 'mount'; readonly mountPoint: ByteString };

const HOLDERS_MAX = 20;

/**
 * Who uses `mount`: the mounts on top of it, and processes that are in it or have something of it open or mapped, here
 * or by its copy in another mount namespace (propagate_mount_busy, fs/pnode.c: a copy in use is EBUSY too). At most 20.
 * Reads all of /proc: some ms.
 */
export function findHolders(mount: MountEntry): Holder[] {
  const below = `${mount.mountPoint}/`;
  const holders: Holder[] = readMountInfo()
    .filter((entry) => entry.mountPoint.startsWith(below) || entry.parent === mount.id)
    .map((entry) => ({ kind: 'mount', mountPoint: entry.mountPoint }));
  const ids = new Set([mount.id, ...copies(mount).map(({ id }) => id)]);
  for (const pid of processes()) {
    if (holders.length >= HOLDERS_MAX) break;
    const what = useOf(pid, ids, below);
    if (what !== undefined) holders.push({ kind: 'process', pid, command: commandLine(pid), what });
  }
  return holders;
}

/** Processes whose own mount namespace still shows the mount, one for each namespace. */
export function findNamespaces(mount: MountEntry): Holder[] {
  return copies(mount).map(({ pid }) => ({
    kind: 'process',
    pid,
    command: commandLine(pid),
    what: 'its mount namespace has the mount',
  }));
}

/** The holders for an error message: `process 12 ("bash"): its working directory; …`. */
export function describeHolders(holders: readonly Holder[]): string {
  if (holders.length === 0) return 'something that /proc does not show';
  return holders
    .map((holder) =>
      holder.kind === 'mount'
        ? `the mount on ${quote(holder.mountPoint)}`
        : `process ${holder.pid} (${quote(holder.command)}): ${holder.what}`,
    )
    .join('; ');
}

/**
 * The mount on `mountPoint` as the processes of another mount namespace see it, with one of those processes; undefined
 * when no live process there shows it. Namespace numbers are used again at once, so only such a sight proves anything.
 * `likely` is asked first.
 */
export function findElsewhere(
  namespace: string,
  mountPoint: ByteString,
  likely: { readonly pid: number; readonly start: number },
): { readonly pid: number; readonly entry: MountEntry } | undefined {
  const first = processStart(likely.pid) === likely.start ? [likely.pid] : [];
  for (const pid of [...first, ...processes()]) {
    if (namespaceOf(pid) !== namespace) continue;
    const entry = mountsOf(pid).findLast((one) => one.mountPoint === mountPoint);
    if (entry !== undefined) return { pid, entry };
  }
  return undefined;
}

/** The same tree of the same filesystem in other mount namespaces, with a process of each. */
function copies(mount: MountEntry): { readonly pid: number; readonly id: number }[] {
  const seen = new Set([mountNamespace()]);
  const found: { pid: number; id: number }[] = [];
  for (const pid of processes()) {
    const namespace = namespaceOf(pid);
    if (namespace === undefined || seen.has(namespace)) continue;
    seen.add(namespace);
    const copy = mountsOf(pid).find((entry) => entry.device === mount.device && entry.root === mount.root);
    if (copy !== undefined) found.push({ pid, id: copy.id });
  }
  return found;
}

const LINKS = [
  ['cwd', 'its working directory'],
  ['root', 'its root directory'],
  ['exe', 'its program'],
] as const;

function useOf(pid: number, mounts: ReadonlySet<number>, below: string): string | undefined {
  for (const [link, what] of LINKS) if (liesOn(`/proc/${pid}/${link}`, mounts)) return what;
  for (const fd of namesIn(`/proc/${pid}/fd`)) {
    const path = `/proc/${pid}/fd/${fd}` as ByteString;
    if (liesOn(path, mounts)) return `open file ${quote(target(path))}`;
  }
  const mapped = mappedFile(pid, below);
  return mapped === undefined ? undefined : `mapped file ${quote(mapped)}`;
}

/** statx(2) tells the mount of what a magic link leads to, exactly, whatever the path is called over there. */
function liesOn(link: string, mounts: ReadonlySet<number>): boolean {
  try {
    const fd = openat(AT_FDCWD, link as ByteString, O_PATH);
    try {
      return mounts.has(fstat(fd).mountId);
    } finally {
      close(fd);
    }
  } catch {
    return false; // it ended or closed it meanwhile, or is not ours to look at: then it cannot be named
  }
}

function target(link: ByteString): ByteString {
  try {
    return readlinkat(AT_FDCWD, link) ?? ('' as ByteString);
  } catch {
    return '' as ByteString; // closed meanwhile
  }
}

function mappedFile(pid: number, below: string): ByteString | undefined {
  const maps = read(`/proc/${pid}/maps`);
  const at = maps.indexOf(` ${below.replaceAll('\n', '\\012')}`); // show_map_vma escapes newlines only
  return at < 0 ? undefined : (maps.slice(at + 1, maps.indexOf('\n', at)) as ByteString);
}

function mountsOf(pid: number): MountEntry[] {
  try {
    return readMountInfo(pid);
  } catch {
    return []; // it ended meanwhile, or has no mount namespace any more (a zombie)
  }
}

function namespaceOf(pid: number): string | undefined {
  const link = target(`/proc/${pid}/ns/mnt` as ByteString);
  return link === '' ? undefined : link;
}

function processes(): number[] {
  return namesIn('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return []; // it ended meanwhile, or is not ours to look at
  }
}

function read(path: string): ByteString {
  try {
    return fromBytes(readFileSync(path));
  } catch {
    return fromText(''); // it ended meanwhile, or is not ours to look at
  }
}
