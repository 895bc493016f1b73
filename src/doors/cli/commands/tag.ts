import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf, say } from '../context.ts';
import { jsonDocument } from '../json.ts';

export const command: Command = defineCommand({
  usage: 'REF NEW',
  operands: [2, 2],
  options: {},
  async run(context, _given, operands) {
    const [reference, name] = [textOf(operands[0]!, 'the reference'), textOf(operands[1]!, 'the new name')];
    await using store = await openStoreOf(context, { create: false, brief: true });
    const { movedFrom } = await store.images.tag(reference, name);
    if (movedFrom !== undefined) say(context, `${name} moved from ${movedFrom}`);
    if (context.json) await context.out.line(jsonDocument({ name, movedFrom }));
    return 0;
  },
});
