import { toBytes } from '../../../base/bytes.ts';
import { type Command, defineCommand } from '../command.ts';
import { jsonLine } from '../json.ts';
import { table } from '../table.ts';

export const command: Command = defineCommand({
  usage: '',
  operands: [0, 0],
  options: {},
  async run(context) {
    const { doctor } = await import('../../../index.ts');
    const findings = await doctor(toBytes(context.root));
    const lines = context.json
      ? findings.map(jsonLine)
      : table(
          ['DRIVER', 'FINDING', 'HOLDS', 'BECAUSE'],
          findings.map(({ driver, name, holds, because, remedy }) => [
            driver,
            name,
            holds ? 'yes' : 'no',
            remedy === undefined ? because : `${because}; ${remedy}`,
          ]),
        );
    for (const line of lines) await context.out.line(line);
    return 0;
  },
});
