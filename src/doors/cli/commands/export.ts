import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { checkDestination, noteTo, writeStream } from '../destination.ts';
import { findEither } from '../find.ts';
import { withProgress } from '../progress.ts';

export const command: Command = defineCommand({
  usage: 'REF|ID [-o FILE|-]',
  operands: [1, 1],
  options: {
    output: { kind: 'value', short: 'o', value: 'FILE|-', help: 'where to (default: -, which must not be a terminal)' },
  },
  async run(context, given, operands) {
    checkDestination(context, given.output);
    const name = textOf(operands[0]!, 'the name');
    await using store = await openStoreOf(context, { create: false, brief: true });
    const found = await findEither(store, name);
    const id = found.kind === 'image' ? found.image.id : found.layer.id;
    const { signal } = context;
    await withProgress(context, (onProgress) =>
      writeStream(
        context,
        given.output,
        store.images.export(id, { signal, onProgress, lend: true, onNote: noteTo(context) }),
      ),
    );
    return 0;
  },
});
