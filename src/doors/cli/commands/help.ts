import { type ByteString, quote } from '../../../base/bytes.ts';
import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { findCommand, isGroup } from '../commands.ts';
import { commandHelp, overview } from '../help.ts';
import { UsageError } from '../parse.ts';

export const command: Command = defineCommand({
  usage: '[COMMAND]',
  operands: [0, 2],
  options: {},
  async run(context, _given, operands) {
    await context.out.line(await page(operands.map((word) => textOf(word, 'the command')).join(' ')));
    return 0;
  },
});

async function page(name: string): Promise<string> {
  if (name === '') return overview();
  if (isGroup(name)) return overview(name);
  const entry = findCommand(name);
  if (entry === undefined) throw new UsageError(`there is no command ${quote(name as ByteString)}`);
  return commandHelp(name, entry.summary, (await entry.load()).command);
}
