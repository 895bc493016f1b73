// Loads an image into a new store and prints what came of it, for tests that look at the process from outside.
// Arguments: root, driver, archive.
import { readFileSync } from 'node:fs';
import { toText } from '../../src/base/bytes.ts';
import { type DriverName, isStorageError, openStore } from '../../src/index.ts';
import { dumpTree } from '../kit/tree-dump.ts';

const [, , root = '', driver = '', archive = ''] = process.argv;
await using store = await openStore({ root, driver: driver as DriverName });
try {
  process.stderr.write('layerstore-test: load\n');
  const [image] = await store.images.load(archive);
  process.stderr.write('layerstore-test: loaded\n');
  if (image !== undefined) {
    await using view = await store.layers.view(image.id);
    process.stdout.write(`${dumpTree(toText(view.path)).join('\n')}\n`);
  }
} catch (error) {
  if (!isStorageError(error)) throw error;
  process.stderr.write('layerstore-test: loaded\n');
  process.stdout.write(`${error.code}\n`);
}
// The kernel's own count: getrusage(2) would also tell of the process that started this one.
const peak = /VmHWM:\s*(\d+ kB)/.exec(readFileSync('/proc/self/status', 'latin1'))?.[1];
process.stderr.write(`layerstore-test: peak: ${peak}\n`);
