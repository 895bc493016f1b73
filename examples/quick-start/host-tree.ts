import { spawnSync } from 'node:child_process';
import { accessSync, constants, lstatSync, readlinkSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

/**
 * The paths of this machine that make the programs run somewhere else: each program, the libraries that ldd names, and
 * every directory and symlink on the way (`/bin -> usr/bin`), parents first. `optional` ones may be absent.
 */
export function treeOfPrograms(programs: readonly string[], optional: readonly string[]): readonly string[] {
  const tree = new Set<string>();
  const found = programs.map((name) => whereIs(name) ?? fail(`Cannot find the program "${name}" in PATH`));
  for (const program of [...found, ...optional.flatMap((name) => whereIs(name) ?? [])]) {
    for (const path of [program, ...librariesOf(program)]) addWithWay(tree, path);
  }
  return [...tree];
}

/** Puts `path` and all on the way to it into `tree`; of a symlink also what it leads to. */
export function addWithWay(tree: Set<string>, path: string): void {
  const names = path.split('/').filter((name) => name !== '');
  let at = '/';
  for (const [i, name] of names.entries()) {
    at = join(at, name);
    const stat = lstatSync(at);
    tree.add(at);
    if (!stat.isSymbolicLink()) continue;
    const rest = names.slice(i + 1).join('/');
    addWithWay(tree, join(resolve(dirname(at), readlinkSync(at)), rest));
    return;
  }
}

function whereIs(name: string): string | undefined {
  return (process.env['PATH'] ?? '')
    .split(':')
    .filter((directory) => directory.startsWith('/'))
    .map((directory) => join(directory, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

/** glibc's ldd says `NAME => PATH (ADDRESS)` or `PATH (ADDRESS)`, musl's the same; of a static program it says neither. */
function librariesOf(program: string): readonly string[] {
  const ldd = spawnSync('ldd', [program], { encoding: 'utf8' });
  if (ldd.error !== undefined) fail('Cannot find the program "ldd", which tells what a program needs');
  return [...ldd.stdout.matchAll(/(?:^|=>)\s*(\/\S+) \(0x/gm)].map(([, path]) => path as string);
}

function fail(why: string): never {
  throw new Error(why);
}
