// Loads one archive in a process of its own: `node measure-child.ts ROOT ARCHIVE`. Prints the peak of its memory in MiB.
import { readFileSync } from 'node:fs';
import { openStore } from '../../src/index.ts';

const [root = '', archive = ''] = process.argv.slice(2);
await using store = await openStore({ root });
await store.images.load(archive);
// Not getrusage's: that begins with what the parent had (exec_mmap, fs/exec.c).
console.log(Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]) / 1024);
