import { type ByteString, quote } from '../../../base/bytes.ts';
import { StorageError } from '../../../base/errors.ts';
import type { Store } from '../../../store/types.ts';
import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { findEither } from '../find.ts';

export const command: Command = defineCommand({
  usage: 'ID|REF|PATH',
  operands: [1, 1],
  options: {},
  async run(context, _given, operands) {
    const operand = operands[0] as ByteString;
    const name = textOf(operand, 'the name');
    await using store = await openStoreOf(context, { create: false, brief: true, ahead: { here: true } });
    if (await letGo(store, name)) return 0;
    throw new StorageError(
      'failed-precondition',
      `Cannot unmount ${quote(operand)}: no "layerstore mount" holds it; mounts of running programs end with them`,
    );
  },
});

/** By name or id, or by the path that `mount` printed. */
async function letGo(store: Store, name: string): Promise<boolean> {
  if (name.startsWith('/')) return store.layers.releaseAt(name);
  const found = await findEither(store, name);
  return found.kind === 'layer' ? found.layer.unmount() : store.layers.releaseView(found.image);
}
