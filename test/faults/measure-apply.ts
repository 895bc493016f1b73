// Unpacks one tar in a process of its own: `node measure-apply.ts ROOT TAR`. Prints the peak of its memory in bytes.
import { fstatSync, openSync, readFileSync } from 'node:fs';
import { type LayerId, openDriver } from '../../src/index.ts';

const [root = '', tar = ''] = process.argv.slice(2);
await using driver = await openDriver({ root, driver: 'overlay2' });
const id = 'measured' as string as LayerId;
await driver.create(id, { writable: true });
const fd = openSync(tar, 'r');
await driver.apply(id, { fd, offset: 0, length: fstatSync(fd).size });
console.log(Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) * 1024);
