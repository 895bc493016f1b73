import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { jsonDocument } from '../json.ts';
import { keyValues } from '../key-values.ts';

export const command: Command = defineCommand({
  usage: '[REF|CHAIN] [--name NAME] [--storage-opt K=V]…',
  operands: [0, 1],
  options: {
    name: { kind: 'value', value: 'NAME', help: 'its name (default: a random one)' },
    'storage-opt': { kind: 'list', value: 'K=V', help: 'option of the driver for this layer, such as size=10G' },
  },
  async run(context, given, operands) {
    const base = operands[0] === undefined ? undefined : textOf(operands[0], 'the reference');
    const name = given.name === undefined ? undefined : textOf(given.name, 'the name');
    const settings = keyValues(given['storage-opt']);
    await using store = await openStoreOf(context, { create: base === undefined, brief: true });
    await using layer = await store.layers.create(base, {
      ...(name === undefined ? {} : { name }),
      settings,
      signal: context.signal,
    });
    await context.out.line(context.json ? jsonDocument({ id: layer.id, name: layer.name }) : layer.id);
    return 0;
  },
});
