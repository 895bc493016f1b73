import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { command } from '../command.ts';
import type { Engine, Session } from '../engine.ts';
import { medianOf } from '../statistics.ts';

const LAUNCHER = fileURLToPath(new URL('../../bin/layerstore', import.meta.url));
const ROUNDS = fileURLToPath(new URL('../rounds.ts', import.meta.url));
export const ROUNDS_COUNT = 20;

/** This project's command, and its library for `rounds`. */
export const layerstore: Engine = {
  name: 'layerstore',
  kind: 'ours',
  version: [LAUNCHER, 'version'],
  async open({ directory, fixture }): Promise<Session> {
    const root = join(directory, 'store');
    const call = async (...args: string[]): Promise<string> =>
      (await command(LAUNCHER, [...args, '--quiet'], { env: { LAYERSTORE_ROOT: root } })).trim();
    return {
      tasks: {
        load: { run: async () => void (await call('load', '-i', fixture.archive)) },
        round: {
          async run() {
            await call('create', fixture.reference, '--name', 'round');
            await call('mount', 'round');
            await call('umount', 'round');
            await call('rm', 'round');
          },
        },
        rounds: {
          note: 'the library in one process',
          run: async () => medianOf(await rounds('library', root, fixture.reference)),
        },
        commit: {
          async before() {
            await call('create', fixture.reference, '--name', 'work');
            await command('tar', ['-xf', fixture.changes, '-C', await call('mount', 'work')]);
            await call('umount', 'work');
          },
          run: async () => void (await call('commit', 'work', 'changed:1')),
        },
        save: { run: async () => void (await call('save', fixture.reference, '-o', join(directory, 'saved.tar'))) },
      },
      [Symbol.asyncDispose]: async () => {},
    };
  },
};

/** Seconds of each round that `rounds.ts` made in a process of its own. */
export async function rounds(how: 'library' | 'docker', where: string, reference: string): Promise<number[]> {
  const printed = await command(process.execPath, [ROUNDS, how, where, reference, String(ROUNDS_COUNT)]);
  return JSON.parse(printed) as number[];
}
