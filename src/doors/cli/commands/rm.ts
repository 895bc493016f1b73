import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { jsonLine } from '../json.ts';

export const command: Command = defineCommand({
  usage: 'ID… [--force]',
  operands: [1, Number.POSITIVE_INFINITY],
  options: {
    force: { kind: 'flag', short: 'f', help: 'also where a mount of it is held, if nothing uses it' },
  },
  async run(context, { force }, operands) {
    const names = operands.map((operand) => textOf(operand, 'the name'));
    await using store = await openStoreOf(context, { create: false, brief: true });
    // One that is not there must not cost the others their lives.
    const layers = new Map<string, string>();
    for (const name of names) layers.set((await store.layers.get(name)).id, name);
    for (const [id, name] of layers) {
      await store.layers.remove(id, { force });
      await context.out.line(context.json ? jsonLine({ removed: id }) : name);
    }
    return 0;
  },
});
