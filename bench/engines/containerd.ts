import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Peers, startContainerd } from '../../test/kit/peers.ts';
import { command, shell } from '../command.ts';
import type { Engine, Missing } from '../engine.ts';

interface Flavour {
  readonly name: string;
  readonly where: 'directory' | 'system';
  readonly config?: string;
}

/** Off by default in 2.x: one layer after another. */
const PARALLEL = '[plugins."io.containerd.transfer.v1.local"]\n  max_concurrent_unpacks = 4\n';

const FLAVOURS: readonly Flavour[] = [
  { name: 'containerd', where: 'directory' },
  { name: 'containerd, parallel', where: 'directory', config: PARALLEL },
  { name: 'containerd', where: 'system' },
];

/** containerd with its overlayfs snapshotter, used through `ctr`. */
export async function containerds(peers: Peers): Promise<(Engine | Missing)[]> {
  return Promise.all(FLAVOURS.map((flavour) => containerd(peers, flavour)));
}

async function containerd(peers: Peers, { name, where, config }: Flavour): Promise<Engine | Missing> {
  const [daemon, ctr] = [peers.findIn(where, 'containerd'), peers.findIn(where, 'ctr')];
  if (daemon === undefined || ctr === undefined) {
    return { name, because: `no containerd and ctr ${where === 'system' ? 'in PATH' : 'in --peers'}` };
  }
  const version = / v?(\d+\.\d+)\./.exec(await command(daemon, ['--version']))?.[1];
  // Through its transfer service, the default of 2.x, some archives are cut off.
  const exporting = where === 'directory' ? ['--local'] : [];
  return {
    name: name.replace('containerd', `containerd ${version}`),
    kind: 'engine',
    aged: where === 'system',
    version: [ctr, '--version'],
    async open({ directory, fixture }) {
      const home = join(directory, 'c');
      const mounted = join(directory, 'mounted');
      for (const dir of [home, mounted]) mkdirSync(dir);
      const path = peers.pathIn(where);
      const running = await startContainerd(home, {
        containerd: daemon,
        path,
        ...(config === undefined ? {} : { config }),
      });
      const call = (...args: string[]): Promise<string> => command(ctr, ['-a', running.socket, ...args]);
      // `prepare --target` prints the mount command.
      const mount = async (key: string): Promise<void> =>
        void (await shell(await call('snapshots', 'prepare', '--target', mounted, key, fixture.chainId), []));
      const reference = `docker.io/library/${fixture.reference}`;
      return {
        tasks: {
          load: { run: async () => void (await call('images', 'import', fixture.archive)) },
          round: {
            note: 'snapshots prepare, mount(8), umount(8), snapshots rm',
            async run() {
              await mount('round');
              await command('umount', [mounted]);
              await call('snapshots', 'rm', 'round');
            },
          },
          commit: {
            note: 'the layer only: a diff kept in the content store, no image made',
            async before() {
              await mount('work');
              await command('tar', ['-xf', fixture.changes, '-C', mounted]);
              await command('umount', [mounted]);
            },
            run: async () => void (await call('snapshots', 'diff', '--keep', '--ref', 'changed', 'work')),
          },
          save: {
            note: 'copies the compressed blobs it keeps beside the unpacked layers',
            run: async () =>
              void (await call('images', 'export', ...exporting, join(directory, 'saved.tar'), reference)),
          },
        },
        [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
      };
    },
  };
}
