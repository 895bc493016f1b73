import { type Command, defineCommand } from '../command.ts';
import { openStoreOf, say } from '../context.ts';
import { FOUND_FAULT } from '../exit-codes.ts';
import { shownText } from '../format.ts';
import { jsonLine } from '../json.ts';
import { withProgress } from '../progress.ts';

export const command: Command = defineCommand({
  usage: '[--deep]',
  operands: [0, 0],
  options: {
    deep: { kind: 'flag', help: 'also compare every file with its record, and every layer with its digest' },
  },
  async run(context, { deep }) {
    await using store = await openStoreOf(context, { create: false });
    const { signal } = context;
    const faults = await withProgress(context, (onProgress) => store.upkeep.check({ deep, signal, onProgress }));
    for (const fault of faults) {
      const { what, where, remedy } = fault;
      // Names of files are quoted in `what` already.
      await context.out.line(context.json ? jsonLine(fault) : `${shownText(where)}: ${what}; ${remedy}`);
    }
    if (faults.length === 0) say(context, 'no faults');
    return faults.length === 0 ? 0 : FOUND_FAULT;
  },
});
