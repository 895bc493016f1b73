import { appendFileSync, mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

// What is done to a mounted tree before its differences are read.

export const ADDED_FILES = 1000;
/** One in so many files is modified. */
const MODIFIED_EVERY = 100;
/** The removed directory has so many files at least: the first such one that has no directory in it. */
const REMOVED_FILES_MIN = 5;

interface Listed {
  readonly files: readonly string[];
  /** Of a directory: how many files, and whether it has nothing else. */
  readonly directories: ReadonlyMap<string, { files: number; plain: boolean }>;
}

function list(tree: string): Listed {
  const files: string[] = [];
  const directories = new Map<string, { files: number; plain: boolean }>();
  for (const entry of readdirSync(tree, { recursive: true, withFileTypes: true })) {
    const parent = directories.get(entry.parentPath) ?? { files: 0, plain: true };
    directories.set(entry.parentPath, parent);
    if (entry.isFile()) {
      files.push(join(entry.parentPath, entry.name));
      parent.files++;
    } else parent.plain = false;
  }
  return { files: files.sort(), directories };
}

/** Appends to `count` files of a tree, or to as many as there are, evenly over all of it; answers how many. */
export function modify(tree: string, count: number): number {
  return append(list(tree).files, count);
}

function append(files: readonly string[], count: number): number {
  const many = Math.min(count, files.length);
  for (let i = 0; i < many; i++) appendFileSync(files[Math.floor((i * files.length) / many)] as string, '\nchanged\n');
  return many;
}

/** The mixed change: 1 % of the files modified, 1,000 added in 20 directories, and a directory with all its files removed. */
export function changeMixed(tree: string): void {
  const { files, directories } = list(tree);
  const plain = [...directories].filter(([, { files: n, plain }]) => plain && n >= REMOVED_FILES_MIN);
  const [removed] = plain.map(([path]) => path).sort();
  if (removed === undefined) throw new Error(`Cannot change ${tree}: it has no directory to remove`);
  append(
    files.filter((file) => !file.startsWith(`${removed}/`)),
    Math.ceil(files.length / MODIFIED_EVERY),
  );
  for (let i = 0; i < ADDED_FILES; i++) {
    const directory = join(tree, 'bench-mixed', `${i % 20}`);
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, `file${i}`), `added ${i}\n`.repeat(100));
  }
  rmSync(removed, { recursive: true });
}

/** A regular file from about the middle of a tree, as deep as it goes there. */
export function middleFile(tree: string): string {
  const found = middleOf(tree);
  if (found === undefined) throw new Error(`Cannot change ${tree}: it has no file`);
  return found;
}

function middleOf(directory: string): string | undefined {
  const entries = readdirSync(directory, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
  const middle = entries.length >> 1;
  const around = [...entries.slice(middle), ...entries.slice(0, middle)];
  for (const { name } of around.filter((entry) => entry.isDirectory())) {
    const found = middleOf(join(directory, name));
    if (found !== undefined) return found;
  }
  const file = around.find((entry) => entry.isFile());
  return file === undefined ? undefined : join(directory, file.name);
}
