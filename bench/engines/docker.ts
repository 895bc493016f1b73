import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Peers, startDockerd } from '../../test/kit/peers.ts';
import { command, shell } from '../command.ts';
import { changeMixed } from '../edits.ts';
import { type Engine, type Missing, once } from '../engine.ts';
import { medianOf } from '../statistics.ts';
import { rounds } from './layerstore.ts';

interface Flavour {
  readonly name: string;
  readonly where: 'directory' | 'system';
  readonly dockerd: string;
  readonly driver?: string;
}

const FLAVOURS: readonly Flavour[] = [
  { name: 'docker 29, containerd store', where: 'directory', dockerd: 'dockerd' },
  { name: 'docker 29, overlay2', where: 'directory', dockerd: 'dockerd', driver: 'overlay2' },
  { name: 'docker 28, overlay2', where: 'directory', dockerd: 'dockerd-28', driver: 'overlay2' },
  { name: 'docker of the system, overlay2', where: 'system', dockerd: 'dockerd', driver: 'overlay2' },
];

/** Docker's engines, each with its own daemon, used through its command. */
export async function dockers(peers: Peers): Promise<(Engine | Missing)[]> {
  return Promise.all(FLAVOURS.map((flavour) => docker(peers, flavour)));
}

async function docker(peers: Peers, { name, where, dockerd, driver }: Flavour): Promise<Engine | Missing> {
  const [daemon, client] = [peers.findIn(where, dockerd), peers.findIn(where, 'docker')];
  const ctr = peers.findIn(where, 'ctr');
  if (daemon === undefined || client === undefined) {
    return { name, because: `no ${dockerd} and docker ${where === 'system' ? 'in PATH' : 'in --peers'}` };
  }
  const said = await command(daemon, ['--version']);
  const version = /version (\d+\.\d+)/.exec(said)?.[1];
  return {
    name: where === 'system' ? `docker ${version}, overlay2` : name,
    kind: 'engine',
    aged: where === 'system',
    version: [client, '--version'],
    async open({ directory, fixture }) {
      const home = join(directory, 'd');
      mkdirSync(home);
      const path = peers.pathIn(where);
      const running = await startDockerd(home, { dockerd: daemon, path, ...(driver === undefined ? {} : { driver }) });
      const env = { DOCKER_HOST: `unix://${running.socket}`, DOCKER_CONFIG: home };
      const call = async (...args: string[]): Promise<string> => (await command(client, args, { env })).trim();
      const { reference } = fixture;
      /** The command that mounts a container's layer as docker does, on `target`. */
      const mounting = async (id: string, target: string): Promise<string> => {
        if (driver === undefined && where === 'directory') {
          if (ctr === undefined) throw new Error('no ctr beside dockerd, to mount what its containerd keeps');
          const socket = join(home, 'docker-exec/containerd/containerd.sock');
          const snapshots = ['-n', 'moby', 'snapshots', '--snapshotter', 'overlayfs'];
          return command(ctr, ['-a', socket, ...snapshots, 'mounts', target, id]);
        }
        const data = JSON.parse(await call('inspect', '-f', '{{json .GraphDriver.Data}}', id)) as Record<
          string,
          string
        >;
        const { LowerDir, UpperDir, WorkDir } = data;
        return `mount -t overlay overlay ${target} -o index=off,lowerdir=${LowerDir},upperdir=${UpperDir},workdir=${WorkDir}`;
      };
      const mixed = once(async () => {
        const id = await call('create', '--name', 'mixed', '--network', 'none', reference, 'true');
        const target = join(directory, 'mixed');
        mkdirSync(target);
        await shell(await mounting(id, target), []);
        changeMixed(target);
        await command('umount', [target]);
      });
      return {
        tasks: {
          load: { run: async () => void (await call('load', '-q', '-i', fixture.archive)) },
          round: {
            note: 'create + rm, whose create mounts and unmounts',
            async run() {
              await call('create', '--name', 'round', '--network', 'none', reference, 'true');
              await call('rm', 'round');
            },
          },
          rounds: {
            note: 'create + delete of a container through its API',
            run: async () => medianOf(await rounds('docker', running.socket, reference)),
          },
          commit: {
            async before() {
              await call('create', '--name', 'work', '--network', 'none', reference, 'true');
              await command(client, ['cp', '-', 'work:/'], { env, input: fixture.changes });
            },
            run: async () => void (await call('commit', 'work', 'changed:1')),
          },
          commits: {
            note: 'through its API',
            before: async () => void (await call('rmi', 'changed:1')),
            run: async () => medianOf(await rounds('docker', running.socket, reference, 'work')),
          },
          changes: { before: mixed, run: async () => void (await call('diff', 'mixed')) },
          'commit-mixed': { before: mixed, run: async () => void (await call('commit', 'mixed', 'mixed:1')) },
          save: { run: async () => void (await call('save', '-o', join(directory, 'saved.tar'), reference)) },
          rmi: {
            async before() {
              // What was made of it would keep its layers.
              const names = (await call('ps', '-aq')).split('\n').filter((name) => name !== '');
              if (names.length > 0) await call('rm', ...names);
              const images = (await call('images', '--format', '{{.Repository}}:{{.Tag}}')).split('\n');
              const others = images.filter((image) => image !== reference && image !== '');
              if (others.length > 0) await call('rmi', ...others);
            },
            run: async () => void (await call('rmi', reference)),
          },
        },
        [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
      };
    },
  };
}
