import { type Command, defineCommand } from '../command.ts';
import { openStoreOf, say } from '../context.ts';
import { humanSize, shownText } from '../format.ts';
import { jsonDocument } from '../json.ts';

export const command: Command = defineCommand({
  usage: '[--dry-run] [--wait] [--removed]',
  operands: [0, 0],
  options: {
    'dry-run': { kind: 'flag', help: 'only tell' },
    wait: { kind: 'flag', help: 'return when the space is free, not before' },
    removed: {
      kind: 'flag',
      help: 'nothing but what rm, rmi and gc removed and a process of theirs has still to delete',
    },
  },
  async run(context, given) {
    const dryRun = given['dry-run'];
    await using store = await openStoreOf(context, { create: false, leavesAside: given.removed });
    const { signal } = context;
    if (given.removed) {
      await store.upkeep.sweep({ signal });
      return 0;
    }
    const report = await store.upkeep.gc({ dryRun, wait: given.wait, signal });
    if (context.json) {
      await context.out.line(jsonDocument(report));
      return 0;
    }
    for (const { id, diffId, sizeBytes } of report.layers) {
      await context.out.line(`layer ${diffId ?? id} ${humanSize(sizeBytes)}`);
    }
    for (const file of report.files) await context.out.line(`file ${shownText(file)}`);
    say(context, `${dryRun ? 'would free' : 'freed'} ${humanSize(report.freedBytes)}`);
    return 0;
  },
});
