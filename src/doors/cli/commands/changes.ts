import type { ByteString } from '../../../base/bytes.ts';
import { textOf } from '../arguments.ts';
import { lineOfChange } from '../change-lines.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf, say } from '../context.ts';

export const command: Command = defineCommand({
  usage: 'ID [--explain]',
  operands: [1, 1],
  options: {
    explain: { kind: 'flag', help: 'say which differ read it, and why' },
  },
  async run(context, { explain }, operands) {
    const name = textOf(operands[0] as ByteString, 'the name');
    await using store = await openStoreOf(context, { create: false });
    await using layer = await store.layers.get(name);
    if (explain) say(context, await layer.explain());
    for await (const change of layer.changes({ signal: context.signal })) {
      await context.out.lineBytes(lineOfChange(context, change));
    }
    return 0;
  },
});
