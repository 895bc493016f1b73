import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { jsonDocument, pathFields } from '../json.ts';

export const command: Command = defineCommand({
  usage: 'ID | --read-only REF',
  operands: [1, 1],
  options: {
    'read-only': { kind: 'flag', help: "an image's tree, which nobody can write to" },
  },
  async run(context, given, operands) {
    const name = textOf(operands[0]!, 'the name');
    const options = { hold: true, signal: context.signal };
    await using store = await openStoreOf(context, { create: false, brief: true, ahead: { here: true } });
    // Not disposed of: the mount stays until `umount`.
    const { path } = given['read-only']
      ? await store.layers.view(name, options)
      : await (await store.layers.get(name)).mount(options);
    await (context.json ? context.out.line(jsonDocument(pathFields(path))) : context.out.lineBytes(path));
    return 0;
  },
});
