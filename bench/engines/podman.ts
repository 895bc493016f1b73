import { join } from 'node:path';
import type { Peers } from '../../test/kit/peers.ts';
import { command } from '../command.ts';
import { changeMixed } from '../edits.ts';
import { type Engine, type Missing, once } from '../engine.ts';

/** podman, without a daemon, and skopeo into the same kind of storage. */
export async function podmans(peers: Peers): Promise<(Engine | Missing)[]> {
  return [await podman(peers), await skopeo(peers)];
}

async function podman(peers: Peers): Promise<Engine | Missing> {
  const program = peers.find('podman');
  if (program === undefined) return { name: 'podman', because: 'no podman in PATH' };
  const version = /(\d+\.\d+)/.exec(await command(program, ['--version']))?.[1];
  return {
    name: `podman ${version}`,
    kind: 'engine',
    version: [program, '--version'],
    async open({ directory, fixture }) {
      const places = [
        '--root',
        join(directory, 'p'),
        '--runroot',
        join(directory, 'r'),
        '--tmpdir',
        join(directory, 't'),
      ];
      const choices = ['--storage-driver', 'overlay', '--runtime', 'runc', '--cgroup-manager', 'cgroupfs'];
      const env = { TMPDIR: directory };
      const call = async (...args: string[]): Promise<string> =>
        (await command(program, [...places, ...choices, '--events-backend', 'none', ...args], { env })).trim();
      const reference = await nameIn(fixture.reference);
      const create = (name: string): Promise<string> =>
        call('create', '--name', name, '--network', 'none', reference, 'true');
      const mixed = once(async () => {
        await create('mixed');
        changeMixed(await call('mount', 'mixed'));
        await call('unmount', 'mixed');
      });
      return {
        tasks: {
          load: { run: async () => void (await call('load', '-q', '-i', fixture.archive)) },
          round: {
            async run() {
              await create('round');
              await call('mount', 'round');
              await call('unmount', 'round');
              await call('rm', 'round');
            },
          },
          commit: {
            async before() {
              await create('work');
              await command('tar', ['-xf', fixture.changes, '-C', await call('mount', 'work')]);
              await call('unmount', 'work');
            },
            run: async () => void (await call('commit', '-q', 'work', 'changed:1')),
          },
          changes: { before: mixed, run: async () => void (await call('diff', 'mixed')) },
          'commit-mixed': { before: mixed, run: async () => void (await call('commit', '-q', 'mixed', 'mixed:1')) },
          save: { run: async () => void (await call('save', '-q', '-o', join(directory, 'saved.tar'), reference)) },
          rmi: {
            async before() {
              // What was made of it would keep its layers.
              await call('rm', '--all');
              const images = (await call('images', '--format', '{{.Repository}}:{{.Tag}}')).split('\n');
              const others = images.filter((image) => image !== reference && image !== '');
              if (others.length > 0) await call('rmi', ...others);
            },
            run: async () => void (await call('rmi', reference)),
          },
        },
        [Symbol.asyncDispose]: async () => {},
      };
    },
  };
}

async function nameIn(reference: string): Promise<string> {
  return `docker.io/library/${reference}`;
}

async function skopeo(peers: Peers): Promise<Engine | Missing> {
  const program = peers.find('skopeo');
  if (program === undefined) return { name: 'skopeo', because: 'no skopeo in PATH' };
  const version = /(\d+\.\d+)/.exec(await command(program, ['--version']))?.[1];
  return {
    name: `skopeo ${version}`,
    kind: 'engine',
    version: [program, '--version'],
    async open({ directory, fixture }) {
      const storage = `containers-storage:[overlay@${join(directory, 's')}+${join(directory, 'r')}]${fixture.reference}`;
      const copy = async (from: string, to: string): Promise<void> =>
        void (await command(program, ['--insecure-policy', '--tmpdir', directory, 'copy', '-q', from, to]));
      return {
        tasks: {
          load: { note: 'copy into containers-storage', run: () => copy(`oci-archive:${fixture.archive}`, storage) },
          save: {
            note: 'copy out of containers-storage',
            run: () => copy(storage, `docker-archive:${join(directory, 'saved.tar')}:${fixture.reference}`),
          },
        },
        [Symbol.asyncDispose]: async () => {},
      };
    },
  };
}
