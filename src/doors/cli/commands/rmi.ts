import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { shownReference } from '../format.ts';
import { jsonLine } from '../json.ts';

export const command: Command = defineCommand({
  usage: 'REF|ID… [--force]',
  operands: [1, Number.POSITIVE_INFINITY],
  options: {
    force: { kind: 'flag', short: 'f', help: 'by id: all its names' },
  },
  async run(context, { force }, operands) {
    const names = operands.map((operand) => textOf(operand, 'the reference'));
    await using store = await openStoreOf(context, { create: false, brief: true });
    for (const { untagged, removed } of await store.images.removeAll(names, { force })) {
      if (context.json) {
        await context.out.line(jsonLine({ untagged, removed }));
        continue;
      }
      for (const one of untagged) await context.out.line(`untagged ${shownReference(one)}`);
      if (removed !== undefined) await context.out.line(`removed ${removed}`);
    }
    return 0;
  },
});
