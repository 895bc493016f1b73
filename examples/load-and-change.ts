// Loads an image, changes it in a writable layer, commits and saves the result.
//   ./try examples/load-and-change.ts ROOT IMAGE.tar NEW.tar
import { createReadStream, createWriteStream } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { openStore, toText } from '../src/index.ts';

process.on('uncaughtException', ({ message }: Error) => {
  console.error(message);
  process.exit(1);
});

const [root, archive, result] = process.argv.slice(2);
if (root === undefined || archive === undefined || result === undefined) {
  console.error('usage: load-and-change.ts ROOT IMAGE.tar NEW.tar');
  process.exit(2);
}

await using store = await openStore({ root });
console.log(`driver ${store.driver.name}: ${store.driver.because}`);

const [image] = await store.images.load(createReadStream(archive));
if (image === undefined) throw new Error(`no image in ${archive}`);
console.log(`loaded ${image.names.join(', ') || image.id}`);

await using work = await store.layers.create(image);
{
  // An ordinary directory until the block ends.
  await using mounted = await work.mount();
  await writeFile(`${toText(mounted.path)}/hello.txt`, 'hello\n');
}
for await (const change of work.changes()) console.log(change.kind, toText(change.path));

const next = await work.commit('example:changed', { message: 'say hello', changes: ['CMD ["cat", "/hello.txt"]'] });
await pipeline(store.images.save([next], { format: 'oci' }), createWriteStream(result));
console.log(`saved ${next.id} as ${result}`);

// Disposal only lets go of the layer; this deletes it.
await work.remove();
