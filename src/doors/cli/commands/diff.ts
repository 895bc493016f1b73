import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { checkDestination, writeStream } from '../destination.ts';
import { withProgress } from '../progress.ts';

export const command: Command = defineCommand({
  usage: 'ID [-o FILE|-]',
  operands: [1, 1],
  options: {
    output: { kind: 'value', short: 'o', value: 'FILE|-', help: 'where to (default: -, which must not be a terminal)' },
  },
  async run(context, given, operands) {
    checkDestination(context, given.output);
    const name = textOf(operands[0]!, 'the name');
    await using store = await openStoreOf(context, { create: false });
    await using layer = await store.layers.get(name);
    const { signal } = context;
    await withProgress(context, (onProgress) => writeStream(context, given.output, layer.diff({ signal, onProgress })));
    return 0;
  },
});
