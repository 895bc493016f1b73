import { digestOf } from '../../src/base/digest.ts';
import { scratch } from '../kit/scratch.ts';
import { hub, imageOf, layersOf, load, open } from './database-sample.ts';

await using dir = await scratch('db');
await using db = await open(dir.path);
const layers = Array.from({ length: 1000 }, (_, i) => layersOf(Array.from({ length: 5 }, (_, j) => `${i}.${j}`)));
const images = layers.map((own, i) => {
  const image = imageOf(`${i}`, own, [hub(`many:${i}`)]);
  const config = Buffer.concat([image.config, Buffer.alloc(4000, ' ')]);
  return { ...image, config, digest: digestOf(config) };
});
let t = performance.now();
await load(db, layers.flat(), images);
console.log('load', performance.now() - t);
for (let i = 0; i < 8; i++) {
  t = performance.now();
  await db.images();
  console.log('images', performance.now() - t);
}
for (let i = 0; i < 3; i++) {
  t = performance.now();
  await db.image('many:500');
  console.log('image', performance.now() - t);
}
for (let i = 0; i < 3; i++) {
  t = performance.now();
  await db.storedLayers();
  console.log('stored', performance.now() - t);
}
for (let i = 0; i < 3; i++) {
  t = performance.now();
  await db.unreachable();
  console.log('unreach', performance.now() - t);
}
t = performance.now();
await db.check();
console.log('check', performance.now() - t);
t = performance.now();
await (await open(dir.path))[Symbol.asyncDispose]();
console.log('open', performance.now() - t);
