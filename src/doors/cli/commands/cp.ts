import { realpathSync } from 'node:fs';
import { type ByteString, fromBytes } from '../../../base/bytes.ts';
import type { Store } from '../../../store/types.ts';
import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf, say } from '../context.ts';
import type { Place } from '../copy.ts';
import { harmless } from '../errors.ts';
import { UsageError } from '../parse.ts';

export const command: Command = defineCommand({
  usage: 'ID:/PATH|PATH ID:/PATH|PATH [--archive]',
  operands: [2, 2],
  options: {
    archive: { kind: 'flag', short: 'a', help: 'keep owners, set-id bits, capabilities and devices' },
  },
  async run(context, { archive }, operands) {
    const [from, to] = operands.map(sideOf) as [Side, Side];
    if (from.layer === undefined && to.layer === undefined) {
      throw new UsageError('neither side is in a writable layer: write one as ID:/path');
    }
    const { signal } = context;
    const { copyBetween } = await import('../copy.ts'); // of Linux, as help is not
    await using store = await openStoreOf(context, { create: false, brief: true });
    await using source = await reach(store, from);
    await using target = await reach(store, to);
    await copyBetween(source, target, {
      owner: archive
        ? undefined
        : to.layer === undefined
          ? { uid: process.geteuid?.() ?? 0, gid: process.getegid?.() ?? 0 }
          : { uid: 0, gid: 0 },
      onSkipped: (path, type) => say(context, `note: ${harmless(path)} is left out: it is a ${type}`),
      signal,
    });
    return 0;
  },
});

interface Side {
  /** Undefined on this machine. */
  readonly layer: string | undefined;
  readonly path: ByteString;
}

/** `ID:/path`, or a path: anything with a `/` before the first `:`, so that `./a:b` is a file. */
export function sideOf(operand: ByteString): Side {
  if (operand === '-') throw new UsageError('cp takes no stream: write ./- for a file of that name');
  if (operand === '') throw new UsageError('a path is empty');
  const colon = operand.indexOf(':');
  const prefix = operand.slice(0, Math.max(colon, 0)) as ByteString;
  if (prefix === '' || prefix.includes('/') || prefix.startsWith('.')) return { layer: undefined, path: operand };
  const path = operand.slice(colon + 1) as ByteString;
  return { layer: textOf(prefix, 'the name'), path: path.startsWith('/') ? path : (`/${path}` as ByteString) };
}

async function reach(store: Store, { layer, path }: Side): Promise<Place & AsyncDisposable> {
  const { Root } = await import('../../../fs/rooted.ts');
  if (layer === undefined) {
    const here = fromBytes(realpathSync.native('.', 'buffer'));
    const root = Root.open('/' as ByteString);
    return {
      root,
      path: path.startsWith('/') ? path : (`${here}/${path}` as ByteString),
      [Symbol.asyncDispose]: async () => root[Symbol.dispose](),
    };
  }
  const mounted = await (await store.layers.get(layer)).mount();
  const root = Root.open(mounted.path);
  return {
    root,
    path,
    [Symbol.asyncDispose]: async () => {
      root[Symbol.dispose](); // An open descriptor would keep the mount busy.
      await mounted[Symbol.asyncDispose]();
    },
  };
}
