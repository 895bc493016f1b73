import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { constants, setPriority } from 'node:os';
import { toBytes, toTextExact } from '../../base/bytes.ts';
import { absoluteBytes } from '../../base/working-directory.ts';
import type { Context } from './context.ts';

/**
 * Deletes the trees of removed layers in a process of its own that outlives this one, with the least claim on the
 * machine. It sees by itself whether another one is at it.
 */
export function deleteElsewhere({ root: given, driver, driverOptions }: Context): void {
  const root = absoluteBytes(toBytes(given));
  const [program = ''] = process.argv.slice(1);
  const options = driverOptions.flatMap((option) => ['--driver-opt', option]);
  // Arguments are made of text. What is not UTF-8 the process finds as the directory that it is given open.
  const text = toTextExact(root);
  const store = [
    '--root',
    text ?? '/proc/self/fd/3',
    ...(driver === undefined ? [] : ['--driver', driver]),
    ...options,
  ];
  const opened = text === undefined ? openSync(toBytes(root), 'r') : undefined;
  const child = spawn(process.execPath, [...process.execArgv, program, ...store, 'gc', '--removed'], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', ...(opened === undefined ? [] : [opened])],
  });
  if (opened !== undefined) closeSync(opened);
  child.on('error', () => {}); // the next command tries again
  child.unref();
  try {
    if (child.pid !== undefined) setPriority(child.pid, constants.priority.PRIORITY_LOW);
  } catch {
    // Then it is in a hurry.
  }
}
