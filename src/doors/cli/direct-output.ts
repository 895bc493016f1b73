import { constants, fstatSync, openSync, type Stats, writeSync } from 'node:fs';
import { ending } from '../../base/ending.ts';

// What Node makes of standard output loads its streams and its network, 4 ms, which is a tenth of a short command. What
// is a file, a pipe or a socket takes bytes without all that.

/** Standard output that takes bytes at once. */
export interface DirectOutput {
  /** Answers how many it took: all, but for a reader that is slow. Throws the system's error, or leaves it to Node. */
  write(bytes: Uint8Array): number;
}

/** For a file, `/dev/null`, a pipe and a socket; undefined for all else, and where it cannot be told. */
export function directOutput(): DirectOutput | undefined {
  try {
    const stat = fstatSync(1);
    if (stat.isFile() || isNull(stat)) return { write: (bytes) => writeAll((rest) => writeSync(1, rest), bytes) };
    if (stat.isSocket()) return { write: (bytes) => writeAll((rest) => send(1, rest), bytes, PATIENCE_MS) };
    return stat.isFIFO() ? pipe() : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Whoever waits for a slow reader hears no signal. Opened anew, it need not be waited for, and nobody else's descriptor
 * of it is changed.
 */
function pipe(): DirectOutput {
  const fd = openSync('/proc/self/fd/1', constants.O_WRONLY | constants.O_NONBLOCK);
  return { write: (bytes) => writeAll((rest) => writeWithoutWait(fd, rest), bytes, PATIENCE_MS) };
}

/** 0: it is full. */
function writeWithoutWait(fd: number, bytes: Uint8Array): number {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
    return 0;
  }
}

/** Where nothing can send, or that fails, Node's streams are to do it, and to tell. */
function send(fd: number, bytes: Uint8Array): number {
  return ending.send?.(fd, bytes) ?? -1;
}

/** A reader that is there takes less, as Node's streams take longer to load; no signal is heard meanwhile. */
const PATIENCE_MS = 20;
const PAUSE_MS = 0.2;

function writeAll(write: (bytes: Uint8Array) => number, bytes: Uint8Array, patienceMs = 0): number {
  let done = 0;
  let left = patienceMs;
  while (done < bytes.length) {
    const took = write(bytes.subarray(done));
    if (took < 0) break;
    done += took;
    if (took > 0) continue;
    if (left <= 0) break;
    left -= PAUSE_MS;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, PAUSE_MS);
  }
  return done;
}

/** `/dev/null`: device 1:3. */
export function isNull(stat: Stats): boolean {
  return stat.isCharacterDevice() && stat.rdev === 0x103;
}
