import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Peers, startDockerd } from '../../test/kit/peers.ts';
import { command } from '../command.ts';
import type { Engine, Missing } from '../engine.ts';
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
          save: { run: async () => void (await call('save', '-o', join(directory, 'saved.tar'), reference)) },
        },
        [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
      };
    },
  };
}
