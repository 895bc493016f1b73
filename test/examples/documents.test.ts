import assert from 'node:assert/strict';
import { accessSync, constants, existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { GROUPS } from '../../src/doors/cli/commands.ts';

const ROOT = new URL('../..', import.meta.url).pathname;
const DOCUMENTS = globSync(['*.md', 'docs/**/*.md', 'changelog/**/*.md'], { cwd: ROOT }).toSorted();
const read = (file: string): string => readFileSync(join(ROOT, file), 'utf8');

/** The commands of all `sh` blocks, in order, one each. */
function commandsOf(markdown: string): string[] {
  return [...markdown.matchAll(/```sh\n(.*?)```/gs)].flatMap(([, block]) =>
    (block as string).split(/\n|&&|;/).flatMap((command) => command.trim() || []),
  );
}

test('README: its first two blocks are sh, one line each', () => {
  const blocks = [...read('README.md').matchAll(/```(\w*)\n(.*?)```/gs)].slice(0, 2);
  assert.deepEqual(
    blocks.map(([, language, content]) => [language, content?.trim().split('\n').length]),
    [
      ['sh', 1],
      ['sh', 1],
    ],
  );
});

test('documents: every command in an sh block exists', () => {
  const { scripts } = JSON.parse(read('package.json')) as { readonly scripts: Readonly<Record<string, string>> };
  for (const file of DOCUMENTS) {
    for (const command of commandsOf(read(file))) {
      const [program, verb, name] = command.split(/\s+/) as [string, string?, string?];
      if (program === 'npm') {
        const script = verb === 'run' ? name : verb;
        assert.ok(verb === 'ci' || Object.hasOwn(scripts, script ?? ''), `${file}: ${command}`);
      } else {
        assert.match(program, /^\.\//, `${file}: this test does not know ${command}`);
        accessSync(join(ROOT, program), constants.X_OK);
      }
    }
  }
});

test('documents: every link leads to a file that is there', () => {
  const dead: string[] = [];
  for (const file of DOCUMENTS) {
    for (const [, target] of read(file).matchAll(/\]\(([^)\s]+)\)/g)) {
      const path = (target as string).replace(/#.*$/, '');
      if (/^https?:/.test(path) || path === '') continue;
      if (!existsSync(join(ROOT, dirname(file), path))) dead.push(`${file}: ${target}`);
    }
  }
  assert.deepEqual(dead, []);
});

test('documents: every path of the project in code marks is there', () => {
  const dead: string[] = [];
  for (const file of DOCUMENTS) {
    for (const [, path] of read(file).matchAll(/`((?:src|test|docs|examples|bin|bench)\/[\w./-]+)`/g)) {
      if (!existsSync(join(ROOT, path as string))) dead.push(`${file}: ${path}`);
    }
  }
  assert.deepEqual(dead, []);
});

test('README: the table of commands has every command', () => {
  const table = read('README.md')
    .split('\n')
    .filter((line) => line.startsWith('| `'));
  const listed = new Set(
    table.flatMap((line) => [...line.split(' | ')[0]!.matchAll(/`([a-z]+)/g)].map(([, name]) => name)),
  );
  const known = new Set(GROUPS.flatMap(({ commands }) => [...commands.keys()].map((name) => name.split(' ')[0])));
  assert.deepEqual([...listed].toSorted(), [...known].toSorted());
});
