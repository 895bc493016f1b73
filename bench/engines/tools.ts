import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Peers } from '../../test/kit/peers.ts';
import { command, shell } from '../command.ts';
import type { Engine, Missing, Place, Session } from '../engine.ts';

/** Floors: what plain programs take for the part of the work that cannot be left out; no digests, names or whiteouts. */
export async function tools(peers: Peers): Promise<(Engine | Missing)[]> {
  const tar: Engine = {
    name: 'gzip -dc | tar -x',
    kind: 'tool',
    version: ['tar', '--version'],
    async open({ directory, fixture }) {
      const trees = fixture.blobs.map((_, i) => join(directory, `${i}`));
      const [round, mounted] = [join(directory, 'round'), join(directory, 'round/merged')];
      const layers = [`upperdir=${round}/upper`, `workdir=${round}/work`, `lowerdir=${trees.toReversed().join(':')}`];
      return {
        tasks: {
          load: {
            note: 'layer by layer into directories',
            run: () => eachBlob(fixture.blobs, trees, 'gzip -dc "$1" | tar -x --numeric-owner -C "$2"'),
          },
          round: {
            note: 'mkdir, mount(8), umount(8), rm',
            async run() {
              await command('mkdir', ['-p', mounted, join(round, 'upper'), join(round, 'work')]);
              await command('mount', ['-t', 'overlay', 'overlay', '-o', layers.join(','), mounted]);
              await command('umount', [mounted]);
              await command('rm', ['-r', round]);
            },
          },
          save: {
            note: 'tar -c of the unpacked layers',
            run: async () =>
              void (await shell('out=$1; shift; for tree; do tar -c --numeric-owner -C "$tree" .; done >"$out"', [
                join(directory, 'saved.tar'),
                ...trees,
              ])),
          },
        },
        [Symbol.asyncDispose]: async () => {},
      };
    },
  };
  const bsdtar: Engine = {
    name: 'bsdtar -x',
    kind: 'tool',
    version: ['bsdtar', '--version'],
    async open({ directory, fixture }: Place): Promise<Session> {
      const trees = fixture.blobs.map((_, i) => join(directory, `${i}`));
      const load = { run: () => eachBlob(fixture.blobs, trees, 'bsdtar -xp --numeric-owner -f "$1" -C "$2"') };
      return { tasks: { load }, [Symbol.asyncDispose]: async () => {} };
    },
  };
  return [tar, peers.find('bsdtar') === undefined ? { name: 'bsdtar -x', because: 'no bsdtar in PATH' } : bsdtar];
}

async function eachBlob(blobs: readonly string[], trees: readonly string[], line: string): Promise<void> {
  for (const tree of trees) mkdirSync(tree, { recursive: true });
  await shell(
    `while [ $# -gt 0 ]; do ${line}; shift 2; done`,
    blobs.flatMap((blob, i) => [blob, trees[i] as string]),
  );
}
