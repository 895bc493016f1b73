// Loads an image into a new store and prints what came of it, for tests that look at the process from outside.
// Arguments: root, driver, archive.
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
