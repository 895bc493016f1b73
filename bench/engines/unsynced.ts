import { join } from 'node:path';
import type { Peers } from '../../test/kit/peers.ts';
import { command } from '../command.ts';
import type { Engine, Missing } from '../engine.ts';
import { LAUNCHER } from './layerstore.ts';

/** msync, fsync, fdatasync, sync, sync_file_range, syncfs: their numbers. */
const SYNCING: Readonly<Partial<Record<NodeJS.Architecture, readonly number[]>>> = {
  x64: [26, 74, 75, 162, 277, 306],
  arm64: [227, 82, 83, 81, 84, 267],
};
const PRCTL: Readonly<Partial<Record<NodeJS.Architecture, number>>> = { x64: 157, arm64: 167 };

/**
 * Runs a program with a seccomp filter under which some system calls do nothing and answer 0: seccomp(2), and bpf(4) of
 * the BSDs for the instructions. Perl, because it is on every Debian, calls the kernel itself and starts in 2 ms.
 */
const WITHOUT = `
my ($prctl, @calls) = split /,/, shift;
my $filter = pack 'S C C L', 0x20, 0, 0, 0;                               # load the number of the call
$filter .= pack 'S C C L', 0x15, @calls - $_, 0, $calls[$_] for 0 .. $#calls; # one of them: to the last line
$filter .= pack 'S C C L', 0x06, 0, 0, 0x7fff0000;                        # allowed
$filter .= pack 'S C C L', 0x06, 0, 0, 0x00050000;                        # "failed" with errno 0, which is success
my $program = pack 'S x![P] P', length($filter) / 8, $filter;
syscall($prctl, 22, 2, $program) == 0 or die "seccomp: $!\\n";
exec @ARGV or die "exec: $!\\n";`;

/** What our own `load` takes where nothing is made durable, as everybody else's: shown beside it. */
export function unsynced(peers: Peers): (Engine | Missing)[] {
  const name = 'layerstore, nothing synced';
  const numbers = [PRCTL[process.arch], ...(SYNCING[process.arch] ?? [])];
  if (peers.find('perl') === undefined) return [{ name, because: 'no perl in PATH' }];
  if (numbers.includes(undefined)) return [{ name, because: `no numbers of system calls for ${process.arch}` }];
  const engine: Engine = {
    name,
    kind: 'tool',
    version: [LAUNCHER, 'version'],
    async open({ directory, fixture }) {
      const program = [LAUNCHER, 'load', '-i', fixture.archive, '--quiet'];
      const load = {
        note: 'fsync, syncfs and the like do nothing (seccomp)',
        run: async () =>
          void (await command('perl', ['-e', WITHOUT, numbers.join(','), ...program], {
            env: { LAYERSTORE_ROOT: join(directory, 'store') },
          })),
      };
      return { tasks: { load }, [Symbol.asyncDispose]: async () => {} };
    },
  };
  return [engine];
}
