import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { jsonDocument, pathFields } from '../json.ts';

export const command: Command = defineCommand({
  usage: '',
  operands: [0, 0],
  options: {},
  async run(context) {
    await using store = await openStoreOf(context, { create: false, brief: true });
    const { root, rootPath, driver } = store;
    const counts = await store.upkeep.counts();
    const status = await driver.status();
    if (context.json) {
      const { name, home, because } = driver;
      const { path, pathBase64 } = pathFields(rootPath);
      const where = path === undefined ? { rootBase64: pathBase64 } : { root: path };
      await context.out.line(jsonDocument({ ...where, driver: { name, home, because, status }, ...counts }));
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
