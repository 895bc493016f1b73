// What is in a store: images, their layers, who uses them.
//   ./try examples/list-images.ts ROOT
import { openStore } from '../src/index.ts';

process.on('uncaughtException', ({ message }: Error) => {
  console.error(message);
  process.exit(1);
});

const [root] = process.argv.slice(2);
if (root === undefined) {
  console.error('usage: list-images.ts ROOT');
  process.exit(2);
}

await using store = await openStore({ root, create: false });
for (const image of await store.images.list()) {
  console.log(image.names.join(', ') || '<none>', image.id, `${image.sizeBytes} bytes`);
  for (const layer of await store.layers.stored(image)) {
    console.log(' ', layer.diffId, `${layer.sizeBytes} bytes, used by`, layer.usedBy.join(', '));
  }
}
