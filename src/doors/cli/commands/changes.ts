import type { ByteString } from '../../../base/bytes.ts';
import { textOf } from '../arguments.ts';
import { writeChanges } from '../change-lines.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf, say } from '../context.ts';

export const command: Command = defineCommand({
  usage: 'ID [--explain] [--renames]',
  operands: [1, 1],
  options: {
    explain: { kind: 'flag', help: 'say which differ read it, and why' },
    renames: { kind: 'flag', help: 'a moved directory as one line, "R /from -> /to", where redirect_dir tells of it' },
  },
  async run(context, { explain, renames }, operands) {
    const name = textOf(operands[0] as ByteString, 'the name');
    await using store = await openStoreOf(context, { create: false, brief: true, ahead: { jobs: 0, here: true } });
    await using layer = await store.layers.get(name);
    const how = renames ? ({ renames: 'collapse' } as const) : {};
    if (explain) say(context, await layer.explain(how));
    await writeChanges(context, layer.changes({ signal: context.signal, ...how }));
    return 0;
  },
});
