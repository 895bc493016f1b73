import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { humanSize, shownId, shownReference, shownTime } from '../format.ts';
import { imageFields } from '../images.ts';
import { jsonLine } from '../json.ts';
import { table } from '../table.ts';

export const command: Command = defineCommand({
  usage: '[-q] [--no-trunc]',
  operands: [0, 0],
  options: {
    quiet: { kind: 'flag', short: 'q', help: 'ids only' },
    'no-trunc': { kind: 'flag', help: 'whole ids' },
  },
  async run(context, given) {
    await using store = await openStoreOf(context, { create: false, brief: true });
    const images = await store.images.list();
    const whole = given['no-trunc'];
    const lines = given.quiet
      ? images.map(({ id }) => (context.json ? jsonLine({ id }) : shownId(id, whole)))
      : context.json
        ? images.map((image) => jsonLine(imageFields(image)))
        : table(
            ['NAME', 'ID', 'PLATFORM', 'CREATED', 'SIZE'],
            images.flatMap(({ names, id, platform, createdAt, sizeBytes }) =>
              (names.length === 0 ? ['<none>'] : names.map(shownReference)).map((name) => [
                name,
                shownId(id, whole),
                platform,
                shownTime(createdAt),
                humanSize(sizeBytes),
              ]),
            ),
          );
    for (const line of lines) await context.out.line(line);
    return 0;
  },
});
