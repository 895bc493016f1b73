import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { humanSize, shownId, shownText, shownTime } from '../format.ts';
import { jsonLine } from '../json.ts';
import { table } from '../table.ts';

const COMMAND_WIDTH = 60;

export const command: Command = defineCommand({
  usage: 'REF|ID [--no-trunc]',
  operands: [1, 1],
  options: {
    'no-trunc': { kind: 'flag', help: 'whole ids and commands' },
  },
  async run(context, given, operands) {
    const whole = given['no-trunc'];
    const name = textOf(operands[0]!, 'the reference');
    await using store = await openStoreOf(context, { create: false, brief: true });
    const entries = await store.images.history(name);
    const lines = context.json
      ? entries.map(jsonLine)
      : table(
          ['LAYER', 'CREATED', 'SIZE', 'CREATED BY', 'COMMENT'],
          entries.map(({ diffId, createdAt, sizeBytes, createdBy, comment }) => [
            diffId === undefined ? '-' : shownId(diffId, whole),
            shownTime(createdAt),
            humanSize(sizeBytes ?? 0),
            cut(shownText(createdBy ?? ''), whole),
            cut(shownText(comment ?? ''), whole),
          ]),
        );
    for (const line of lines) await context.out.line(line);
    return 0;
  },
});

function cut(text: string, whole: boolean): string {
  const characters = [...text];
  return whole || characters.length <= COMMAND_WIDTH ? text : `${characters.slice(0, COMMAND_WIDTH - 1).join('')}…`;
}
