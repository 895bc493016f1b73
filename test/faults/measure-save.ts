// Saves one image compressed in a process of its own: `node measure-save.ts ROOT NAME KIND FILE`. Prints the peak of its
// memory in MiB.
import { closeSync, openSync, readFileSync } from 'node:fs';
import { openStore } from '../../src/index.ts';

const [root = '', name = '', kind = '', to = ''] = process.argv.slice(2);
{
  await using store = await openStore({ root });
  const fd = openSync(to, 'w');
  await store.images.saveTo([name], fd, { compress: kind as 'none' | 'gzip' | 'zstd' });
  closeSync(fd);
}
console.log(Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) / 1024);
