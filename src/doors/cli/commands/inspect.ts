import type { WritableLayer } from '../../../store/types.ts';
import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { findEither } from '../find.ts';
import { imageFields } from '../images.ts';
import { jsonDocument } from '../json.ts';

export const command: Command = defineCommand({
  usage: 'REF|ID',
  operands: [1, 1],
  options: {},
  async run(context, _given, operands) {
    const name = textOf(operands[0]!, 'the name');
    await using store = await openStoreOf(context, { create: false, brief: true });
    const found = await findEither(store, name);
    const fields =
      found.kind === 'layer'
        ? await layerFields(found.layer)
        : { ...imageFields(found.image), config: JSON.parse(Buffer.from(found.image.config).toString('utf8')) };
    await context.out.line(jsonDocument({ kind: found.kind, ...fields }));
    return 0;
  },
});

async function layerFields(layer: WritableLayer): Promise<Readonly<Record<string, unknown>>> {
  const { id, name, image, chainId, createdAt } = layer;
  const [mounted, sizeBytes, differ] = await Promise.all([layer.isMounted(), layer.sizeBytes(), layer.explain()]);
  return { id, name, image, chainId, createdAt, mounted, sizeBytes, differ };
}
