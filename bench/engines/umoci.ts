import { join } from 'node:path';
import type { Peers } from '../../test/kit/peers.ts';
import { command } from '../command.ts';
import type { Engine, Missing } from '../engine.ts';

/** umoci, which unpacks a layout into one tree. */
export async function umocis(peers: Peers): Promise<(Engine | Missing)[]> {
  const program = peers.find('umoci');
  if (program === undefined) return [{ name: 'umoci', because: 'no umoci in PATH' }];
  const version = /(\d+\.\d+)/.exec(await command(program, ['--version']))?.[1];
  const umoci: Engine = {
    name: `umoci ${version}`,
    kind: 'engine',
    version: [program, '--version'],
    async open({ directory, fixture }) {
      const [bundle, layout] = [join(directory, 'bundle'), join(directory, 'layout')];
      const tag = fixture.reference.split(':')[1] as string;
      return {
        tasks: {
          load: {
            note: 'unpack of the layout directory into one tree',
            run: async () => void (await command(program, ['unpack', '--image', `${fixture.layout}:${tag}`, bundle])),
          },
          commit: {
            note: 'repack, which compares the whole tree',
            async before() {
              await command('cp', ['-r', fixture.layout, layout]);
              await command('tar', ['-xf', fixture.changes, '-C', join(bundle, 'rootfs')]);
            },
            run: async () => void (await command(program, ['repack', '--image', `${layout}:changed`, bundle])),
          },
        },
        [Symbol.asyncDispose]: async () => {},
      };
    },
  };
  return [umoci];
}
