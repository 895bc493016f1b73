import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { constants, Script } from 'node:vm';

// Runs the joined program from compiled code. What Node keeps of a module by itself is made before the module is run, and
// so has none of the functions that only a call compiles: of a `changes` these are 600, and take 8 ms every time. Here it
// is made at the end of a command, and kept for each: it has what that command called. A run that goes other ways compiles
// more, so it is made again now and then, of what was kept and that.

/** In the joined files, what they are made of. */
declare const JOINED_STATE: string;
/** Of the joined file that this is in, which lies beside the program. (To make another one loads Node's modules of modules, 0.5 ms.) */
declare const require: NodeJS.Require;

const DAY_MS = 86_400_000;
const DIRECTORY_PREFIX = 'compiled-';

/** What `main.cjs` exports. */
interface Program {
  main(named: (command: string) => void): Promise<never>;
}

/**
 * Runs the program in `file`, whose address is `url`; `cache`: a directory that is this user's alone, absent where nothing
 * is to be kept.
 */
export function runCompiled(file: string, url: URL, cache: string | undefined): void {
  const memory = Buffer.allocUnsafeSlow(MEMORY_BYTES);
  const { source, state } = readProgram(file, memory);
  const guess = process.argv.slice(2).find((arg) => /^[a-z]{2,16}$/.test(arg));
  const kept = cache === undefined || guess === undefined ? undefined : new Kept(cache, state, guess);
  const { code: cachedData, isDue = true } = kept?.read(memory) ?? {};
  const script = new Script(source, {
    filename: file,
    importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    ...(cachedData === undefined ? {} : { cachedData }),
  });
  let command = '';
  if (kept !== undefined && (isDue || script.cachedDataRejected === true)) {
    process.once('exit', (code) => {
      if (code === 0 && command === guess) kept.write(() => script.createCachedData());
    });
  }
  const module = { exports: {} as Program };
  const run = script.runInThisContext() as (...args: readonly unknown[]) => void;
  run(module.exports, require, module, file, dirname(file), url.href);
  void module.exports.main((name) => {
    [command = ''] = name.split(' ');
  });
}

/** What the files are read into one after another: memory that is new costs as much as the reading, 1.5 µs for each page. */
const MEMORY_BYTES = 2 * 1024 * 1024;

/** All of it, in `memory` where that is enough. */
function readInto(memory: Buffer, fd: number, sizeBytes: number): Buffer {
  const bytes = sizeBytes <= memory.length ? memory.subarray(0, sizeBytes) : Buffer.allocUnsafeSlow(sizeBytes);
  let done = 0;
  for (let more = 1; more > 0 && done < sizeBytes; done += more)
    more = readSync(fd, bytes, done, sizeBytes - done, done);
  return bytes.subarray(0, done);
}

/** ASCII alone (tools/bundle.mjs), so that each byte is a character. */
function readProgram(file: string, memory: Buffer): { readonly source: string; readonly state: string } {
  const fd = openSync(file, 'r');
  try {
    const { size, mtimeMs } = fstatSync(fd);
    // V8 itself looks at the length of the source alone.
    const state = [JOINED_STATE, size, Math.round(mtimeMs), process.version, process.arch].join('-');
    return { source: readInto(memory, fd, size).toString('latin1'), state };
  } finally {
    closeSync(fd);
  }
}

/** By how often it was made: after so long it is made again. */
const LASTS_MS = [0, 60_000, 3_600_000, DAY_MS];

/**
 * Compiled code of one command. What cannot be read or written is done without. It is there twice: V8 does not look
 * whether it is damaged, and ends the process where it is. A comparison is all that takes no time: sums in JavaScript take
 * 2 ms, and Node's are in modules that take as long to load. The last byte says how often it was made.
 */
class Kept {
  readonly #home: string;
  readonly #directory: string;
  readonly #file: string;
  #times = 0;

  constructor(home: string, state: string, command: string) {
    this.#home = home;
    this.#directory = `${home}/${DIRECTORY_PREFIX}${state}`;
    this.#file = `${this.#directory}/${command}`;
  }

  /** `isDue`: it is to be made again. The code is `memory`'s, until something else is read. */
  read(memory: Buffer): { readonly code: Buffer; readonly isDue: boolean } | undefined {
    try {
      const fd = openSync(this.#file, 'r');
      try {
        const { mtimeMs, size } = fstatSync(fd);
        const bytes = readInto(memory, fd, size);
        const half = (bytes.length - 1) / 2;
        if (bytes.compare(bytes, half, 2 * half, 0, half) !== 0) return undefined;
        this.#times = bytes[2 * half] as number;
        const age = Date.now() - mtimeMs;
        return { code: bytes.subarray(0, half), isDue: age > (LASTS_MS[this.#times] ?? DAY_MS) || age < 0 };
      } finally {
        closeSync(fd);
      }
    } catch {
      return undefined;
    }
  }

  write(compiled: () => Buffer): void {
    const draft = `${this.#file}.${process.pid}`;
    try {
      const code = compiled();
      if (!this.#isThere()) this.#dropOld();
      mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
      const fd = openSync(draft, 'wx', 0o600);
      try {
        for (const part of [code, code, Buffer.of(Math.min(this.#times + 1, LASTS_MS.length))]) writeFileSync(fd, part);
      } finally {
        closeSync(fd);
      }
      renameSync(draft, this.#file);
    } catch {
      drop(draft);
    }
  }

  #isThere(): boolean {
    return statSync(this.#directory, { throwIfNoEntry: false }) !== undefined;
  }

  /** Of other states of the program, to which nothing was added for a day. Where one is in use it is made anew. */
  #dropOld(): void {
    for (const name of readdirSync(this.#home)) {
      const path = `${this.#home}/${name}`;
      if (!name.startsWith(DIRECTORY_PREFIX) || Date.now() - statSync(path).mtimeMs < DAY_MS) continue;
      rmSync(path, { recursive: true, force: true });
    }
  }
}

function drop(file: string): void {
  try {
    rmSync(file, { force: true });
  } catch {
    // The disk has other troubles: they are not this command's.
  }
}
