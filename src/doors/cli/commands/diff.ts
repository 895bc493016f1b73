import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { COMPRESS, compressionGiven } from '../compress.ts';
import { openStoreOf } from '../context.ts';
import { checkDestination, noteTo, writeStream } from '../destination.ts';
import { withProgress } from '../progress.ts';

export const command: Command = defineCommand({
  usage: 'ID [-o FILE|-] [--compress gzip|zstd]',
  operands: [1, 1],
  options: {
    output: { kind: 'value', short: 'o', value: 'FILE|-', help: 'where to (default: -, which must not be a terminal)' },
    compress: COMPRESS,
  },
  async run(context, given, operands) {
    checkDestination(context, given.output);
    const compress = compressionGiven(given.compress);
    const name = textOf(operands[0]!, 'the name');
    const ahead = compress === undefined ? { jobs: 0, here: true } : { jobs: 1 };
    await using store = await openStoreOf(context, { create: false, brief: true, ahead });
    await using layer = await store.layers.get(name);
    const { signal } = context;
    const how = { signal, ...(compress === undefined ? {} : { compress }) };
    await withProgress(context, (onProgress) =>
      writeStream(context, given.output, layer.diff({ ...how, onProgress, lend: true, onNote: noteTo(context) })),
    );
    return 0;
  },
});
