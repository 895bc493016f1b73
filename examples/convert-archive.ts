// Lists the images of an archive or layout and writes them as a docker archive, without a store; any system with Node 24.
//   ./try examples/convert-archive.ts IMAGE.tar|LAYOUT DOCKER.tar
import { createWriteStream } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { openArchive, writeArchive } from '../src/oci-entry.ts';

process.on('uncaughtException', ({ message }: Error) => {
  console.error(message);
  process.exit(1);
});

const [source, result] = process.argv.slice(2);
if (source === undefined || result === undefined) {
  console.error('usage: convert-archive.ts IMAGE.tar|LAYOUT DOCKER.tar');
  process.exit(2);
}

await using archive = await openArchive(source);
const images = archive.images();
for (const { names, config, layers } of images) {
  console.log(names.join(', ') || '<none>', config.digest, `${layers.length} layers`);
}
await pipeline(writeArchive(images, { format: 'docker' }), createWriteStream(result));
