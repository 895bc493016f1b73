import type { Image, Store, WritableLayer } from '../../../store/types.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { humanSize, shownId, shownReference, shownText, shownTime } from '../format.ts';
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
    const whole = given['no-trunc'];
    await using store = await openStoreOf(context, { create: false, brief: true });
    const layers = await store.layers.list();
    if (given.quiet) {
      for (const { id } of layers) await context.out.line(context.json ? jsonLine({ id }) : shownId(id, whole));
      return 0;
    }
    const images = new Map((await store.images.list()).map((image) => [image.id, image]));
    const states = [];
    for (const layer of layers) {
      const state = await stateOf(layer).catch((error: unknown) => unlessRemoved(store, layer, error));
      if (state !== undefined) states.push(state);
    }
    const lines = context.json
      ? states.map(jsonLine)
      : table(
          ['ID', 'NAME', 'IMAGE OR CHAIN', 'MOUNTED', 'SIZE', 'CREATED'],
          states.map(({ id, name, image, chainId, mounted, sizeBytes, createdAt }) => [
            shownId(id, whole),
            shownText(name),
            image === undefined ? shownId(chainId ?? '-', whole) : imageName(image, images.get(image), whole),
            mounted ? 'yes' : 'no',
            humanSize(sizeBytes),
            shownTime(createdAt),
          ]),
        );
    for (const line of lines) await context.out.line(line);
    return 0;
  },
});

type State = Pick<WritableLayer, 'id' | 'name' | 'image' | 'chainId' | 'createdAt'> & {
  readonly mounted: boolean;
  readonly sizeBytes: number;
};

/** What another process removed since the layers were listed is not there. */
async function unlessRemoved({ layers }: Store, { id }: WritableLayer, error: unknown): Promise<undefined> {
  if ((await layers.list()).some((layer) => layer.id === id)) throw error;
}

async function stateOf(layer: WritableLayer): Promise<State> {
  const { id, name, image, chainId, createdAt } = layer;
  const fields = { mounted: await layer.isMounted(), sizeBytes: await layer.sizeBytes() };
  return {
    id,
    name,
    ...(image === undefined ? {} : { image }),
    ...(chainId === undefined ? {} : { chainId }),
    createdAt,
    ...fields,
  };
}

function imageName(id: string, image: Image | undefined, whole: boolean): string {
  const name = image?.names[0];
  return name === undefined ? shownId(id, whole) : shownReference(name);
}
