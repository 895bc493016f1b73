import { type FileHandle, open, readdir, rename, unlink } from 'node:fs/promises';
import { type ByteString, fromBytes, toBytes } from '../../base/bytes.ts';
import { AT_FDCWD, AT_SYMLINK_FOLLOW, linkat, O_NOFOLLOW, O_NONBLOCK, O_RDWR, O_TMPFILE } from '../../linux/inode.ts';
import { EEXIST } from '../../linux/libc.ts';
import { randomBytes } from '../../linux/random.ts';
import { LOCK_EX, tryFlock } from '../../linux/sync.ts';
import { isSystemError } from './errors.ts';

// A file that gets its name when it is whole. Until then it has none (O_TMPFILE), so that a killed process leaves
// nothing; where the filesystem has no such files, and for the moment in which it takes another's place, it has a name
// beside the target. Such a file is locked by whoever writes it: one without a lock is a dead process's.

export interface PendingFile extends AsyncDisposable {
  readonly file: FileHandle;
  /** Gives it the name, in place of what has it. */
  place(): Promise<void>;
}

export interface PendingOptions {
  /** As where the filesystem has no nameless files. */
  readonly named?: boolean;
}

/** Of the target's name, in those beside it. */
const NAME_BYTES = 64;

/** open(2), O_TMPFILE: the filesystem cannot; EISDIR from kernels that do not know the flag. */
const NO_NAMELESS: ReadonlySet<string> = new Set(['EOPNOTSUPP', 'EISDIR', 'EINVAL']);

/** A new file for `path`, open for writing, mode 0666 as the umask leaves it. Removes what dead processes left of it. */
export async function openPending(path: ByteString, { named = false }: PendingOptions = {}): Promise<PendingFile> {
  const slash = path.lastIndexOf('/') + 1;
  const directory = (slash === 0 ? './' : path.slice(0, slash)) as ByteString;
  // The target's own name may be as long as a name can be. What another target's has in common with it matters little:
  // what is swept nobody writes to any more.
  const mark = `.layerstore-writing-${path.slice(slash, slash + NAME_BYTES)}-`;
  const beside = (): ByteString => `${directory}${mark}${randomBytes(6).toString('hex')}` as ByteString;
  await sweep(directory, mark);
  const nameless = named ? undefined : await openNameless(directory);
  let [file, temporary] = nameless === undefined ? await openNamed(beside) : [nameless, undefined];
  return {
    file,
    async place() {
      if (temporary === undefined) {
        const self = `/proc/self/fd/${file.fd}` as ByteString;
        if (linkat(AT_FDCWD, self, AT_FDCWD, path, AT_SYMLINK_FOLLOW, EEXIST) === 0) return;
        const name = beside();
        linkat(AT_FDCWD, self, AT_FDCWD, name, AT_SYMLINK_FOLLOW);
        temporary = name;
      } else await file.datasync(); // filesystems over a network tell only now that the data did not fit
      await rename(toBytes(temporary), toBytes(path));
      temporary = undefined;
    },
    async [Symbol.asyncDispose]() {
      await file.close();
      if (temporary !== undefined) await unlink(toBytes(temporary)).catch(() => {}); // the first failure is the one to tell
    },
  };
}

async function openNameless(directory: ByteString): Promise<FileHandle | undefined> {
  let file: FileHandle;
  try {
    file = await open(toBytes(directory), O_TMPFILE | O_RDWR, 0o666);
  } catch (error) {
    if (isSystemError(error) && NO_NAMELESS.has(error.code)) return undefined;
    throw error;
  }
  lock(file.fd); // nobody else can have it
  return file;
}

async function openNamed(beside: () => ByteString): Promise<[FileHandle, ByteString]> {
  for (;;) {
    const name = beside();
    const file = await open(toBytes(name), 'wx', 0o666);
    // Before the lock somebody may have taken it for a dead process's.
    if (lock(file.fd) !== false && (await file.stat()).nlink > 0) return [file, name];
    await file.close();
  }
}

/** Whether the lock is ours now; undefined where the filesystem has no locks. */
function lock(fd: number): boolean | undefined {
  try {
    return tryFlock(fd, LOCK_EX);
  } catch {
    return undefined; // then nothing is ever taken for a dead process's
  }
}

/** Removes the files in `directory` that begin with `mark` and that nobody writes any more. */
async function sweep(directory: ByteString, mark: string): Promise<void> {
  try {
    for (const entry of await readdir(toBytes(directory), { encoding: 'buffer' })) {
      const name = fromBytes(entry);
      if (!name.startsWith(mark)) continue;
      const left = toBytes(`${directory}${name}` as ByteString);
      await using file = await open(left, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
      if (lock(file.fd) === true) await unlink(left);
    }
  } catch {
    // What cannot be looked at or removed was not this run's work, and harms it in nothing.
  }
}
