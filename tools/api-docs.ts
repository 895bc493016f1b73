// Writes docs/api: a page for each entry point of the package, made of the declarations that tsc emits, which carry the
// docstrings. Why so: docs/decisions/16-api-pages-from-declarations.md.
//   ./try tools/api-docs.ts
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

const ROOT = join(import.meta.dirname, '..');
const PAGES: readonly { readonly name: string; readonly entry: string; readonly about: string }[] = [
  {
    name: 'layerstore',
    entry: 'index.d.ts',
    about: 'Stores of images and layers, and drivers alone. Opening needs Linux; importing works everywhere.',
  },
  {
    name: 'layerstore/tar',
    entry: 'tar/index.d.ts',
    about: 'Archives as bytes and back, exactly. Any system with Node 24.',
  },
  {
    name: 'layerstore/oci',
    entry: 'oci-entry.d.ts',
    about: 'Images as plain data; OCI layouts and docker archives to read and write. Any system with Node 24.',
  },
];

/** A top-level declaration as tsc emits it, its docstring apart. */
interface Declaration {
  readonly name: string;
  readonly doc: string;
  readonly code: string;
  readonly file: string;
}

interface Page {
  /** Below docs/api. */
  readonly file: string;
  readonly text: string;
}

export interface ApiDocs {
  readonly pages: readonly Page[];
  /** What is exported without a docstring, and what a declaration names that is not exported itself. */
  readonly faults: readonly string[];
}

/** The pages as they should be, of the source as it is. */
export function apiDocs(): ApiDocs {
  const directory = mkdtempSync(join(tmpdir(), 'layerstore-api-'));
  try {
    const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
    const flags = ['-p', 'tsconfig.build.json', '--emitDeclarationOnly', '--outDir', directory];
    execFileSync(process.execPath, [tsc, ...flags], { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'] });
    const modules = new Modules(directory);
    const faults: string[] = [];
    const pages = PAGES.map(({ name, entry, about }): Page => {
      const exported = modules.exportsOf(entry);
      for (const one of exported) {
        if (one.doc === '') faults.push(`${name} exports ${one.name} (${one.file}) without a docstring`);
        for (const method of bareMethods(one.code))
          faults.push(`${name} exports ${one.name}.${method}() without a docstring`);
        for (const other of modules.namedIn(one)) {
          if (!exported.some((known) => known.name === other)) {
            faults.push(`${name} exports ${one.name} (${one.file}), which names ${other}, and does not export that`);
          }
        }
      }
      const isType = ({ code }: Declaration): boolean => /^(?:interface|type)\b/.test(code);
      const sections = exported
        .toSorted((a, b) => Number(isType(a)) - Number(isType(b)))
        .map(({ name, doc, code }) => {
          return [`## ${name}`, textOf(doc), `\`\`\`ts\n${code}\n\`\`\``].filter((part) => part !== '').join('\n\n');
        });
      const made = 'Made by `npm run docs` from the docstrings of the source; do not edit.';
      const text = `${[`# \`${name}\``, `${about}\n${made}`, ...sections].join('\n\n')}\n`;
      return { file: `${name.replace('/', '-')}.md`, text };
    });
    return { pages, faults };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

class Modules {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  #read(file: string): string {
    return readFileSync(join(this.#directory, file), 'utf8');
  }

  /** What a module exports, in the order in which it does. */
  exportsOf(file: string): readonly Declaration[] {
    return statementsOf(this.#read(file)).flatMap((statement): readonly Declaration[] => {
      const [, list, from] = /^export (?:type )?(\*|\{.*\})(?: from '(.*)')?;$/s.exec(withoutDoc(statement)) ?? [];
      if (list === undefined) return declarationOf(statement, file);
      if (from === undefined) return [];
      const there = this.exportsOf(target(file, from));
      if (list === '*') return there;
      return list
        .slice(1, -1)
        .split(',')
        .map((name) => name.trim().replace(/^type /, ''))
        .flatMap((name) => there.filter((one) => one.name === name));
    });
  }

  /** Names of this package that a declaration uses. */
  namedIn({ name, code, file }: Declaration): readonly string[] {
    const source = this.#read(file);
    const own = statementsOf(source).flatMap(
      (statement) => /\b(?:interface|type|class) (\w+)/.exec(withoutDoc(statement))?.[1] ?? [],
    );
    const imported = [...source.matchAll(/^import (?:type )?\{(.*)\} from '\./gm)].flatMap(([, list]) =>
      (list as string).split(',').map((one) => one.trim().replace(/^type /, '')),
    );
    const bare = code.replace(/\/\*.*?\*\//gs, '').replace(/(['"`]).*?\1/g, '');
    return [...new Set([...own, ...imported])].filter((one) => one !== name && new RegExp(`\\b${one}\\b`).test(bare));
  }
}

/** Top-level statements, each with the comment before it: what tsc emits is indented everywhere else. */
function statementsOf(source: string): readonly string[] {
  const statements: string[] = [];
  let doc = '';
  for (const block of source.split(/\n(?=\/\*\*|(?:export|import|declare|interface|type)\b)/)) {
    if (block.startsWith('/**') && block.trimEnd().endsWith('*/')) doc = `${block.trimEnd()}\n`;
    else {
      statements.push(doc + block.trimEnd());
      doc = '';
    }
  }
  return statements;
}

function withoutDoc(statement: string): string {
  return statement.replace(/^\/\*\*.*?\*\/\n/s, '');
}

function declarationOf(statement: string, file: string): readonly Declaration[] {
  const code = withoutDoc(statement);
  const name = /^export (?:declare )?(?:abstract )?(?:interface|type|class|const|function) (\w+)/.exec(code)?.[1];
  if (name === undefined) return [];
  const bare = code.replace(/^export (?:declare )?/, '').replace(/\n {4}(?:#private|private \S+);/g, '');
  return [
    {
      name,
      file,
      doc: statement.slice(0, statement.length - code.length),
      code: bare.replace(/^( {4})+/gm, (all) => '  '.repeat(all.length / 4)),
    },
  ];
}

/** Methods of an interface or class without a docstring. */
function bareMethods(code: string): readonly string[] {
  return [...code.matchAll(/(\S)\n {2}(\w+)\(/g)].flatMap(([, before, name]) =>
    before === '/' || name === 'constructor' ? [] : [name as string],
  );
}

/** A docstring as text, its examples as code. */
function textOf(doc: string): string {
  const text = doc
    .replace(/^\/\*\*\s?|\s*\*\/\s*$/g, '')
    .replace(/^ \* ?/gm, '')
    .trim();
  const [first = '', ...examples] = text.split(/\n?@example /);
  return [first.trim(), ...examples.map((example) => `\`\`\`ts\n${example.trim()}\n\`\`\``)].join('\n\n');
}

function target(file: string, from: string): string {
  return join(dirname(file), from.replace(/\.ts$/, '.d.ts'));
}

if (import.meta.main) {
  const { pages, faults } = apiDocs();
  mkdirSync(join(ROOT, 'docs/api'), { recursive: true });
  for (const { file, text } of pages) writeFileSync(join(ROOT, 'docs/api', file), text);
  for (const fault of faults) console.error(fault);
  process.exitCode = faults.length > 0 ? 1 : 0;
}
