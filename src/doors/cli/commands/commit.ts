import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { rfc3339, sourceDateEpoch } from '../epoch.ts';
import { reportLoaded } from '../images.ts';
import { withProgress } from '../progress.ts';

export const command: Command = defineCommand({
  usage: "ID REF [--message M] [--author A] [--change 'CMD …']…",
  operands: [2, 2],
  options: {
    message: { kind: 'value', short: 'm', value: 'TEXT', help: 'kept in the image’s history' },
    author: { kind: 'value', short: 'a', value: 'TEXT', help: 'kept in the image’s history' },
    change: { kind: 'list', short: 'c', value: 'LINE', help: 'Dockerfile instruction (CMD, ENV, …); may be repeated' },
  },
  async run(context, given, operands) {
    const [name, reference] = [textOf(operands[0]!, 'the name'), textOf(operands[1]!, 'the reference')];
    const epochSeconds = sourceDateEpoch(context.env);
    const options = {
      ...(given.message === undefined ? {} : { message: textOf(given.message, 'the message') }),
      ...(given.author === undefined ? {} : { author: textOf(given.author, 'the author') }),
      ...(epochSeconds === undefined ? {} : { createdAt: rfc3339(epochSeconds) }),
      changes: given.change.map((line) => textOf(line, 'the change')),
    };
    await using store = await openStoreOf(context, { create: false, brief: true, ahead: { jobs: 0, here: true } });
    await using layer = await store.layers.get(name);
    const { signal } = context;
    const image = await withProgress(context, (onProgress) =>
      layer.commit(reference, { ...options, signal, onProgress }),
    );
    await reportLoaded(context, [image]);
    return 0;
  },
});
