import { existsSync } from 'node:fs';
import { fromText, quote } from '../../../base/bytes.ts';
import { StorageError } from '../../../base/errors.ts';
import { absolute } from '../../../base/working-directory.ts';
import { textOf } from '../arguments.ts';
import { type Command, defineCommand } from '../command.ts';
import { openStoreOf } from '../context.ts';
import { reportLoaded } from '../images.ts';
import { withProgress } from '../progress.ts';
import { sourceOf } from '../source.ts';

/** Before a store is made for it: the root may be mistyped as well. */
function requireFile(source: unknown): void {
  if (typeof source !== 'string' || existsSync(absolute(source))) return;
  const path = fromText(source);
  throw new StorageError('not-found', `Cannot load ${quote(path)}: no such file or directory`, { path });
}

export const command: Command = defineCommand({
  usage: '[-i FILE|DIR|-] [--platform OS/ARCH[/VARIANT]]',
  operands: [0, 0],
  options: {
    input: {
      kind: 'value',
      short: 'i',
      value: 'FILE|DIR|-',
      help: 'docker archive, OCI layout or its tar (default: -)',
    },
    platform: { kind: 'value', value: 'OS/ARCH', help: "which image of an index (default: this machine's)" },
  },
  async run(context, given) {
    using source = sourceOf(context, given.input);
    const platform = given.platform === undefined ? undefined : textOf(given.platform, 'the platform');
    requireFile(source.bytes);
    await using store = await openStoreOf(context, { create: true, brief: true, ahead: { jobs: 2 } });
    const images = await withProgress(context, (onProgress) =>
      store.images.load(source.bytes, {
        ...(platform === undefined ? {} : { platform }),
        signal: context.signal,
        onProgress,
      }),
    );
    await reportLoaded(context, images);
    return 0;
  },
});
