import assert from 'node:assert/strict';
import { globSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { test } from 'node:test';

interface Floors {
  /** Rooms from the ground up; those of one floor never import one another. `index.ts` is the library's surface. */
  readonly floors: readonly (readonly string[])[];
  /** Modules that only these folders may name. */
  readonly only: Readonly<Record<string, readonly string[]>>;
}

const ROOT = new URL('..', import.meta.url).pathname;
const { floors, only } = JSON.parse(readFileSync(join(ROOT, 'floors.json'), 'utf8')) as Floors;
const FILES = globSync('src/**/*.ts', { cwd: ROOT }).map((file) => relative('src', file));

/** Every module that a file names: static, dynamic and type imports, and `new URL` to a thread's entry. */
function importsOf(file: string): string[] {
  const source = readFileSync(join(ROOT, 'src', file), 'utf8');
  const found = source.matchAll(/(?:from|import)\s*\(?\s*['"]([^'"]+)['"]/g);
  return [...found].map((match) => match[1] as string);
}

function roomOf(file: string): string {
  return file.includes('/') ? (file.split('/')[0] as string) : file;
}

function floorOf(room: string): number {
  return floors.findIndex((rooms) => rooms.includes(room));
}

test('floors: every folder of src stands on one', () => {
  for (const file of FILES) assert.notEqual(floorOf(roomOf(file)), -1, `${file} is in no room of floors.json`);
});

test('floors: imports only go down, and never to a sibling', () => {
  const climbs: string[] = [];
  for (const file of FILES) {
    for (const name of importsOf(file)) {
      if (!name.startsWith('.')) continue;
      const target = join(dirname(file), name);
      const [from, to] = [roomOf(file), roomOf(target)];
      if (from === to) continue;
      if (floorOf(to) >= floorOf(from)) climbs.push(`${file} imports ${target}`);
    }
  }
  assert.deepEqual(climbs, []);
});

test('floors: doors never import one another', () => {
  const doorOf = (file: string): string => file.split('/').slice(0, 2).join('/');
  for (const file of FILES.filter((one) => one.startsWith('doors/'))) {
    for (const name of importsOf(file)) {
      const target = join(dirname(file), name);
      if (name.startsWith('.') && target.startsWith('doors/')) assert.equal(doorOf(target), doorOf(file), file);
    }
  }
});

test('floors: some modules are named in their rooms only', () => {
  for (const file of FILES) {
    for (const name of importsOf(file)) {
      const places = only[name];
      if (places === undefined) continue;
      assert.ok(
        places.some((place) => file.startsWith(`${place}/`)),
        `${file} names ${name}, which is for ${places.join(', ')}`,
      );
    }
  }
});

test('floors: no module imports itself in a circle', () => {
  const done = new Set<string>();
  const visit = (file: string, way: readonly string[]): void => {
    assert.ok(!way.includes(file), `a circle: ${[...way, file].join(' → ')}`);
    if (done.has(file)) return;
    const source = readFileSync(join(ROOT, 'src', file), 'utf8');
    // Types are erased: only what runs can go in a circle.
    const values = [...source.matchAll(/^(?:import|export)(?!\s+type\b)[^;]*?from\s+['"](\.[^'"]+)['"]/gms)];
    for (const match of values) visit(join(dirname(file), match[1] as string), [...way, file]);
    done.add(file);
  };
  for (const file of FILES) visit(file, []);
});

test('floors: no module has state that changes (invariant 8)', () => {
  for (const file of FILES) {
    const source = readFileSync(join(ROOT, 'src', file), 'utf8');
    for (const line of source.split('\n')) {
      // Collections at the top are read-only tables, and say so by their type.
      const mutable =
        /^(?:export )?(?:let|var) /.test(line) ||
        /^(?:export )?const \w+(?:: (?:Map|Set|Array)<.*>)? = new (?:Map|Set)\(\)/.test(line);
      assert.ok(!mutable, `${file}: ${line}`);
    }
  }
});

test('floors: below the doors nothing is printed, names are bytes, and JSON is for documents and rows (invariant 11)', () => {
  const found: string[] = [];
  for (const file of FILES.filter((one) => !one.startsWith('doors/'))) {
    const lines = readFileSync(join(ROOT, 'src', file), 'utf8').split('\n');
    const code = lines.filter((line) => !/^\s*(\/\/|\*|\/\*\*)/.test(line));
    const documents = /^(oci|transport|store)\//.test(file);
    for (const line of code) {
      const printed = /\bconsole\.|process\.(stdout|stderr)/.test(line);
      const json = /JSON\.parse/.test(line) && !documents;
      // The kernel's own small files are ASCII; base/bytes is where text becomes a name and a name text.
      const unicode = /TextDecoder|'utf-?8'/.test(line) && !/^(base\/bytes|linux\/kernel|oci\/json)\.ts$/.test(file);
      if (printed || json || unicode) found.push(`${file}: ${line.trim()}`);
    }
  }
  assert.deepEqual(found, []);
});

test('floors: each invariant is in the title of a test', () => {
  const titles = globSync('test/**/*.ts', { cwd: ROOT }).flatMap((file) =>
    [...readFileSync(join(ROOT, file), 'utf8').matchAll(/\(invariants? ([0-9 and]+)/g)].flatMap((match) =>
      (match[1] as string).split(' and ').map(Number),
    ),
  );
  const stated = [...readFileSync(join(ROOT, 'ARCHITECTURE.md'), 'utf8').matchAll(/^(\d+)\. /gm)].map((match) =>
    Number(match[1]),
  );
  assert.ok(stated.length >= 12);
  assert.deepEqual(
    stated.filter((number) => !titles.includes(number)),
    [],
  );
});
