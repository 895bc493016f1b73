import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { apiDocs } from '../../tools/api-docs.ts';

const DIRECTORY = new URL('../../docs/api', import.meta.url).pathname;
const { pages, faults } = apiDocs();

test('docs/api: everything exported has a docstring, and names only what is exported too', () => {
  assert.deepEqual(faults, []);
});

test('docs/api is what `npm run docs` makes of the source', () => {
  const written = readdirSync(DIRECTORY).map((file) => ({ file, text: readFileSync(join(DIRECTORY, file), 'utf8') }));
  const byFile = (list: typeof written): Map<string, string> => new Map(list.map(({ file, text }) => [file, text]));
  assert.deepEqual([...byFile(written).keys()].toSorted(), pages.map(({ file }) => file).toSorted());
  for (const { file, text } of pages) {
    assert.ok(byFile(written).get(file) === text, `docs/api/${file} is stale: run "npm run docs"`);
  }
});
