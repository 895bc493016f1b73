// Several writable layers on one image: each sees the same files, none sees another's changes.
//   ./try examples/fork-a-sandbox.ts ROOT REFERENCE [COUNT]
import { readFile, writeFile } from 'node:fs/promises';
import { isStorageError, openStore, toText } from '../src/index.ts';

process.on('uncaughtException', ({ message }: Error) => {
  console.error(message);
  process.exit(1);
});

const [root, reference, count = '3'] = process.argv.slice(2);
if (root === undefined || reference === undefined) {
  console.error('usage: fork-a-sandbox.ts ROOT REFERENCE [COUNT]');
  process.exit(2);
}

await using store = await openStore({ root, create: false });
const image = await store.images.get(reference);

const forks = await Promise.all(Array.from({ length: Number(count) }, () => store.layers.create(image)));
await Promise.all(
  forks.map(async (fork, i) => {
    await using mounted = await fork.mount();
    const file = `${toText(mounted.path)}/sandbox.txt`;
    await writeFile(file, `written by fork ${i}\n`);
    console.log(fork.name, (await readFile(file, 'utf8')).trim(), `${await fork.sizeBytes()} bytes of its own`);
  }),
);

// While forks exist the image is in use, and says so.
try {
  await store.images.remove(reference);
} catch (error) {
  if (!isStorageError(error, 'busy')) throw error;
  console.log(error.message);
}
for (const fork of forks) await fork.remove();
