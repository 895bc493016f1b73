import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { jsonDocument } from '../json.ts';

export const command: Command = defineCommand({
  usage: '',
  operands: [0, 0],
  options: {},
  async run(context) {
    await using store = await openStoreOf(context, { create: false, brief: true });
    const { root, driver } = store;
    const counts = await store.upkeep.counts();
    const status = await driver.status();
    if (context.json) {
      const { name, home, because } = driver;
      await context.out.line(jsonDocument({ root, driver: { name, home, because, status }, ...counts }));
      return 0;
    }
    const lines = [
      `Root: ${root}`,
      `Driver: ${driver.name}`,
      ` Because: ${driver.because}`,
      ` Home: ${driver.home}`,
      ...status.map(([name, value]) => ` ${name}: ${value}`),
      `Images: ${counts.images}`,
      `Layers: ${counts.layers}`,
      `Writable layers: ${counts.writable}`,
    ];
    for (const line of lines) await context.out.line(line);
    return 0;
  },
});
