import { readFileSync } from 'node:fs';
import { ending } from '../../base/ending.ts';

// How a command ends: without what Node and the libraries in it do at their end. The kernel takes threads, memory and
// mounts back by itself, in half the time; and koffi calls fsync(2) on standard output, so that an archive in a file is
// written to its disk before the command is over.

/** Node's options that bin/layerstore gives. With others Node may write at its end what it has measured. */
const USUAL = /^--(disable-warning|v8-pool-size|min-semi-space-size)=/;

/** Of a standard descriptor that Node has made a stream of: what its flags were. They are of all who share it. */
const flags = new Map<number, number>();

/** To be called before Node makes a stream of the descriptor: it takes a pipe's waiting away. */
export function keepFlags(fd: number): void {
  try {
    const found = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'));
    if (found !== null) flags.set(fd, Number.parseInt(found[1] as string, 8));
  } catch {
    // It is closed, or /proc is not there.
  }
}

/** Ends the process, once all that it has to say is out. */
export function end(code: number): never {
  const { NODE_OPTIONS, NODE_V8_COVERAGE } = process.env;
  const isUsual = !NODE_OPTIONS && !NODE_V8_COVERAGE && process.execArgv.every((flag) => USUAL.test(flag));
  if (isUsual) process.once('exit', (status) => ending.now?.(status, flags));
  process.exit(code);
}
