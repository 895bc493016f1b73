import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { command } from '../command.ts';
import { changeMixed, modify } from '../edits.ts';
import { type Engine, once, type Session } from '../engine.ts';
import { installed } from '../installed.ts';
import { medianOf } from '../statistics.ts';

export const LAUNCHER: string = fileURLToPath(new URL('../../bin/layerstore', import.meta.url));
const ROUNDS = fileURLToPath(new URL('../rounds.ts', import.meta.url));
export const ROUNDS_COUNT = 20;
const COMMITS_COUNT = 5;
const DIFF_FILES = 10;

/** This project's command, and its library for `rounds`. */
export const layerstore: Engine = {
  name: 'layerstore',
  kind: 'ours',
  version: [LAUNCHER, 'version'],
  async open({ directory, fixture }): Promise<Session> {
    const root = join(directory, 'store');
    const launcher = await installed(join(dirname(fixture.changes), 'package'));
    const call = async (...args: string[]): Promise<string> =>
      (await command(launcher, [...args, '--quiet'], { env: { LAYERSTORE_ROOT: root } })).trim();
    const [layers, images]: [string[], string[]] = [[], []];
    /** A writable layer of the image, with what `change` does to it. */
    const make = async (name: string, change: (tree: string) => unknown): Promise<void> => {
      await call('create', fixture.reference, '--name', name);
      layers.push(name);
      await change(await call('mount', name));
      await call('umount', name);
    };
    const commit = async (layer: string, image: string): Promise<void> => {
      await call('commit', layer, image);
      images.push(image);
    };
    const mixed = once(() => make('mixed', changeMixed));
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
          before: () => make('work', (tree) => command('tar', ['-xf', fixture.changes, '-C', tree])),
          run: () => commit('work', 'changed:1'),
        },
        commits: {
          note: 'the library in one process',
          // Its image would have the layer that is to be made.
          before: async () => void (images.length > 0 && (await call('rmi', ...images.splice(0)))),
          run: async () => medianOf(await rounds('library', root, fixture.reference, 'work')),
        },
        changes: { before: mixed, run: async () => void (await call('changes', 'mixed')) },
        'commit-mixed': { before: mixed, run: () => commit('mixed', 'mixed:1') },
        diff: {
          before: () => make('ten', (tree) => modify(tree, DIFF_FILES)),
          run: async () => void (await call('diff', 'ten', '-o', join(directory, 'ten.tar'))),
        },
        save: { run: async () => void (await call('save', fixture.reference, '-o', join(directory, 'saved.tar'))) },
        rmi: {
          note: 'its layers are set aside; a process of its own deletes them afterwards',
          async before() {
            // What was made of it would keep its layers.
            if (layers.length > 0) await call('rm', ...layers);
            if (images.length > 0) await call('rmi', ...images);
            await call('gc', '--removed');
          },
          run: async () => void (await call('rmi', fixture.reference)),
        },
      },
      // What a removal leaves to a process of its own is not to run beside what is measured next.
      [Symbol.asyncDispose]: async () => void (await call('gc', '--removed')),
    };
  },
};

/** Seconds of each round that `rounds.ts` made in a process of its own; `layer`: of each commit of that one. */
export async function rounds(
  how: 'library' | 'docker',
  where: string,
  reference: string,
  layer?: string,
): Promise<number[]> {
  const count = layer === undefined ? ROUNDS_COUNT : COMMITS_COUNT;
  const what = layer === undefined ? [] : [layer];
  const printed = await command(process.execPath, [ROUNDS, how, where, reference, String(count), ...what]);
  return JSON.parse(printed) as number[];
}
