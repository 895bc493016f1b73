import { readFileSync } from 'node:fs';
import { ending } from '../../base/ending.ts';

// How a command ends: without what Node and the libraries in it do at their end. The kernel takes threads, memory and
// mounts back by itself, in half the time; and koffi calls fsync(2) on standard output, so that an archive in a file is
// written to its disk before the command is over.

/** Node's options that bin/layerstore gives. With others Node may write at its end what it has measured. */
const USUAL = /^--(disable-warning|v8-pool-size|min-semi-space-size|initial-old-space-size)=/;

/** Flags of the standard descriptors, which all have who share one. Node takes a pipe's waiting away for its streams, and makes some for each worker. */
type Flags = ReadonlyMap<number, number>;

/** As they are now; undefined where that cannot be told. */
export function standardFlags(): Flags | undefined {
  const flags = new Map<number, number>();
  for (const fd of [0, 1, 2]) {
    try {
      const [, octal] = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1')) ?? [];
      if (octal === undefined) return undefined;
      flags.set(fd, Number.parseInt(octal, 8));
    } catch {
      return undefined; // /proc is not there
    }
  }
  return flags;
}

/** Ends the process, once all that it has to say is out. `flags`: those of its start, which are given back. */
export function end(code: number, flags: Flags | undefined): never {
  const { NODE_OPTIONS, NODE_V8_COVERAGE } = process.env;
  const isUsual = !NODE_OPTIONS && !NODE_V8_COVERAGE && process.execArgv.every((flag) => USUAL.test(flag));
  if (isUsual && flags !== undefined) process.once('exit', (status) => ending.now?.(status, flags));
  process.exit(code);
}
