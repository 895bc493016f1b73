import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

const STORE_CHILD = new URL('store-child.ts', import.meta.url).pathname;

/** A process that works on a store (store-child.ts). */
export interface StoreChild {
  readonly process: ChildProcess;
  /** Resolves when it begins its work, or has ended. */
  readonly ready: Promise<unknown>;
  /** Its exit code, or the signal that ended it. */
  readonly end: Promise<number | string>;
  readonly out: () => string;
  readonly err: () => string;
}

export function storeChild(...args: readonly string[]): StoreChild {
  const made = spawn(process.execPath, [STORE_CHILD, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  let [out, err] = ['', ''];
  const begun = Promise.withResolvers<void>();
  made.stdout.on('data', (chunk) => {
    out += chunk;
    begun.resolve();
  });
  made.stderr.on('data', (chunk) => (err += chunk));
  const end = once(made, 'close').then(([code, signal]) => (code ?? signal) as number | string);
  return { process: made, ready: Promise.race([begun.promise, end]), end, out: () => out, err: () => err };
}
