// The program of somebody who installed the package: compiled strictly, then run, both by test/package/package.test.ts
// from a copy in that somebody's directory.
//   node consumer.ts ROOT IMAGE.tar RESULT.tar
import assert from 'node:assert/strict';
import { createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { pipeline } from 'node:stream/promises';
import * as all from 'layerstore';
import { type Change, isStorageError, openStore, type Progress, type Store, toText } from 'layerstore';
import { type ArchivedImage, layerTar, openArchive } from 'layerstore/oci';
import { readTar } from 'layerstore/tar';

const [root = '', archive = '', result = ''] = process.argv.slice(2);
const require = createRequire(import.meta.url);
assert.equal(require('layerstore').openStore, openStore, 'require() gives the same module');

const told: Progress[] = [];
await using store: Store = await openStore({ root, driver: 'overlay2' });
const [image] = await store.images.load(archive, { onProgress: (progress) => void told.push(progress) });
assert.ok(image !== undefined && told.length > 0);
await using work = await store.layers.create(image);
{
  await using mounted = await work.mount();
  await writeFile(`${toText(mounted.path)}/hello`, 'hello\n');
}
const changes: Change[] = [];
for await (const change of work.changes({ rendering: 'core' })) changes.push(change);
assert.deepEqual(
  changes.map(({ kind, path }) => `${kind} ${toText(path)}`),
  ['add /hello'],
);
const next = await work.commit('example:2');
await pipeline(store.images.save([next]), createWriteStream(result));

await using saved = await openArchive(result);
const [again] = saved.images() as [ArchivedImage];
assert.equal(again.config.digest, next.id);
const names: string[] = [];
for await (const { entry } of readTar(layerTar(again.layers.at(-1)!))) names.push(toText(entry.name));
assert.deepEqual(names, ['hello']);

// @ts-expect-error a number is no root
await assert.rejects(openStore({ root: 5 }), TypeError);
await assert.rejects(store.images.get('absent'), (error) => isStorageError(error, 'not-found'));
// Spelled so that the compiler does not look: what is not exported is not reachable.
const inner: string = 'layerstore/dist/store/open.js';
await assert.rejects(import(inner), { code: 'ERR_PACKAGE_PATH_NOT_EXPORTED' });
console.log(Object.keys(all).toSorted().join(' '));
