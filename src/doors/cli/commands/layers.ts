import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { humanSize, shownId, shownReference, shownText } from '../format.ts';
import { jsonLine } from '../json.ts';
import { table } from '../table.ts';

export const command: Command = defineCommand({
  usage: '[REF|ID] [--no-trunc]',
  operands: [0, 1],
  options: {
    'no-trunc': { kind: 'flag', help: 'whole ids' },
  },
  async run(context, given, operands) {
    const whole = given['no-trunc'];
    const name = operands[0] === undefined ? undefined : textOf(operands[0], 'the reference');
    await using store = await openStoreOf(context, { create: false, brief: true });
    const layers = await store.layers.stored(name);
    const lines = context.json
      ? layers.map(jsonLine)
      : table(
          ['DIFF ID', 'CHAIN ID', 'SIZE', 'TAR', 'GIVEN BACK FROM', 'USED BY'],
          layers.map(({ diffId, chainId, sizeBytes, tarBytes, exact, usedBy }) => [
            shownId(diffId, whole),
            shownId(chainId, whole),
            humanSize(sizeBytes),
            humanSize(tarBytes),
            exact.holds ? 'its files' : 'a kept copy',
            usedBy
              .map((user) => shownText(shownReference(/^sha256:/.test(user) ? shownId(user, whole) : user)))
              .join(', '),
          ]),
        );
    for (const line of lines) await context.out.line(line);
    return 0;
  },
});
